//! Standard output and standard error of the commands. Never panics: a closed standard output ends
//! the command, a closed standard error is ignored.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{process, thread};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Stop;
use crate::codec::json;
use crate::durable::{self, sync_name};
use crate::log::is_command;
pub(super) use crate::log::printable;

/// Writes to standard output and flushes.
pub(super) fn out(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| failed(None, &e))
}

/// Writes a JSON object on one line.
pub(super) fn out_json(members: &[(impl AsRef<str>, String)]) -> Result<(), Stop> {
    out(&(printable_json(&object(members)) + "\n"))
}

/// A JSON object of members whose values are already JSON.
pub(super) fn object(members: &[(impl AsRef<str>, String)]) -> String {
    let members = members.iter().map(|(name, value)| json::quote(name.as_ref()) + ":" + value);
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

/// A JSON array of elements that are already JSON.
pub(super) fn array(elements: impl Iterator<Item = String>) -> String {
    format!("[{}]", elements.collect::<Vec<_>>().join(","))
}

/// A JSON number, without a decimal point if it is whole; `null` if it is not finite.
pub(super) fn number(value: f64) -> String {
    // Adding 0.0 turns -0.0 into 0.0.
    if value.is_finite() { (value + 0.0).to_string() } else { "null".into() }
}

/// Prints one line to standard error.
pub(super) fn tell(line: &str) {
    let _ = io::stderr().write_all(said(line).as_bytes());
}

/// One line, with control characters escaped.
fn said(line: &str) -> String {
    format!("fws: {}\n", printable(line))
}

/// From now on the process exits quietly as soon as the reader of its output is gone. A failed
/// write would show that too, but there may be nothing to write for a long time.
pub(super) fn end_with_reader() -> Result<(), Stop> {
    let wait = || {
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        while poll(&mut polled, None) == Err(Errno::INTR) {}
        let gone = PollFlags::ERR | PollFlags::HUP;
        if polled.iter().any(|it| it.revents().intersects(gone)) {
            process::exit(0);
        }
    };
    let started = thread::Builder::new().spawn(wait);
    started.map(drop).map_err(|e| Stop::Failed(format!("cannot start a thread: {e}")))
}

/// Buffered output for large amounts: standard output, or a new file.
pub(super) struct Output {
    sink: BufWriter<Box<dyn Write>>,
    file: Option<Unfinished>,
}

/// Age at which an incomplete file is one that was left.
const LEFT_SECONDS: i64 = 3600;

/// A file that gets its name only when it is complete, so that no part of it has that name, even if
/// the process is killed or the power goes.
struct Unfinished {
    path: PathBuf,
    /// Its name until then, beside the other: `.new-`, 16 digits, and the other.
    temporary: PathBuf,
    file: File,
}

impl Output {
    /// Opens standard output, or a file (mode 0600) that must not exist yet.
    pub fn open(path: Option<&str>) -> Result<Output, Stop> {
        let Some(path) = path else {
            return Ok(Output { sink: BufWriter::new(Box::new(io::stdout())), file: None });
        };
        let made = Unfinished::make(path.as_ref());
        let opened = made.and_then(|file| Ok((file.file.try_clone()?, file)));
        let (sink, file) = opened.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => is_there(path.as_ref()),
            _ => Stop::Failed(format!("cannot make {path}: {e}")),
        })?;
        let sink = BufWriter::new(Box::new(sink) as Box<dyn Write>);
        Ok(Output { sink, file: Some(file) })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.sink.write_all(bytes).map_err(|e| failed(self.path(), &e))
    }

    /// Flushes. A file is synced to disk and gets its name, which is synced too.
    pub fn finish(mut self) -> Result<(), Stop> {
        let written = self.sink.flush();
        let synced = written.and_then(|()| self.file.as_ref().map_or(Ok(()), Unfinished::finish));
        synced.map_err(|e| match (self.path(), e.kind()) {
            (Some(path), ErrorKind::AlreadyExists) => is_there(path),
            (path, _) => failed(path, &e),
        })
    }

    fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

impl Unfinished {
    fn make(path: &Path) -> io::Result<Unfinished> {
        if path.symlink_metadata().is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let mut ending = OsString::from("-");
        ending.push(path.file_name().ok_or(ErrorKind::IsADirectory)?);
        let folder = path.parent().unwrap_or(Path::new(""));
        let (file, temporary) = durable::temporary(folder, &ending)?;
        // Of any name: that of a nightly backup is its date. But nothing new: another machine may
        // be writing it, whose locks are not seen here. The time is that of the file system.
        let before = file.metadata()?.mtime() - LEFT_SECONDS;
        durable::sweep(folder, |ending| ending.starts_with('-'), Some(before));
        Ok(Unfinished { path: path.into(), temporary, file })
    }

    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        match fs::hard_link(&self.temporary, &self.path) {
            Ok(()) => fs::remove_file(&self.temporary)?,
            Err(_) if self.path.symlink_metadata().is_ok() => {
                return Err(ErrorKind::AlreadyExists.into());
            }
            // A file system without links.
            Err(_) => fs::rename(&self.temporary, &self.path)?,
        }
        sync_name(&self.path)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Once it is finished it has another name.
        let _ = fs::remove_file(&self.temporary);
    }
}

fn is_there(path: &Path) -> Stop {
    Stop::Failed(format!("{} is there already, and is not written over", path.display()))
}

fn failed(path: Option<&Path>, e: &io::Error) -> Stop {
    match (path, e.kind()) {
        (Some(path), _) => Stop::Failed(format!("cannot write {}: {e}", path.display())),
        (None, ErrorKind::BrokenPipe) => Stop::Closed,
        (None, _) => Stop::Failed(format!("cannot write to standard output: {e}")),
    }
}

/// The same JSON, with control characters in strings escaped so that a terminal does not obey them.
/// Line ends and tabs, which JSON allows only between tokens, stay.
pub(super) fn printable_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => out.push(c),
            '\r' => out.push(' '),
            c if is_command(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_in_foreign_text_are_escaped() {
        let text = "a\u{1b}[2J\u{9b}31m\u{9d}0;x\u{9c}\u{7f}\u{85}\u{2028}é\n";
        let shown = r"a\u{1b}[2J\u{9b}31m\u{9d}0;x\u{9c}\u{7f}\u{85}\u{2028}é\n";
        assert_eq!(printable(text), shown);
        assert_eq!(said("the server says: a\nfws: b"), "fws: the server says: a\\nfws: b\n");
        let json = "{\r\n\t\"a\u{9b}31m\":\"\u{80}\u{9f}\u{7f}\u{85}\u{2029}é\"}";
        let shown = printable_json(json);
        assert_eq!(shown, "{ \n\t\"a\\u009b31m\":\"\\u0080\\u009f\\u007f\\u0085\\u2029é\"}");
        let parse = |text| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&shown), parse(json));
    }
}
