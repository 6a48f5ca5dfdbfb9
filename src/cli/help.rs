//! The help texts, generated from the table of commands.

use super::{COMMANDS, Command, store};

/// What `fws` is and which commands it has.
pub(super) fn overview() -> String {
    let mut text = String::from(
        "fws: a push server. Back ends publish, authenticated browsers receive.\n\n\
         usage: fws COMMAND [OPTION…] …\n\n",
    );
    for command in COMMANDS {
        text.push_str(&format!("  {:<10} {}\n", command.name, command.summary));
    }
    text.push_str(
        "\n`fws help COMMAND` explains one of them. To try it, in two terminals:\n\n  \
         fws serve --demo\n  fws emit demo news '\"hello\"'\n",
    );
    text
}

/// One line on how to call a command.
pub(super) fn usage(command: &Command) -> String {
    let forms: Vec<String> =
        command.usage.iter().map(|form| format!("fws {} {form}", command.name)).collect();
    format!("usage: {} (see `fws {} --help`)", forms.join(" | "), command.name)
}

/// The full help of one command.
pub(super) fn command(command: &Command) -> String {
    let mut text = format!("fws {}: {}\n\n", command.name, command.summary);
    for (i, form) in command.usage.iter().enumerate() {
        let word = if i == 0 { "usage:" } else { "      " };
        text.push_str(&format!("{word} fws {} {form}\n", command.name));
    }
    text.push_str(&format!("\n{}\n", command.about));
    if command.name == store::NAME {
        text.push('\n');
        for below in store::COMMANDS {
            text.push_str(&format!("  {:<18} {}\n", below.name, below.summary));
        }
    }
    text.push_str("\noptions:\n");
    for flag in command.flags {
        let name = format!("--{} {}", flag.name, flag.value);
        text.push_str(&format!("  {name:<24} {}\n", flag.about));
    }
    text.push_str(&format!("  {:<24} this text\n\nexamples:\n", "--help"));
    for (line, does) in command.examples {
        text.push_str(&format!("  {line}\n      {does}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_description_and_examples() {
        for this in COMMANDS.iter().chain(store::COMMANDS) {
            let text = command(this);
            assert!(this.examples.len() >= 2 && !this.about.is_empty(), "{}", this.name);
            let group = command(&store::COMMAND);
            assert!((overview() + &group).contains(this.summary));
            for (line, _) in this.examples {
                assert!(line.contains(&format!("fws {}", this.name)), "{line}");
            }
            for line in text.lines() {
                assert!(line.chars().count() <= 92 && !line.ends_with(' '), "{line:?}");
            }
        }
    }
}
