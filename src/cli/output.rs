//! What a command says. Never panics: a closed standard output ends the command, a closed standard
//! error is nobody's loss.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Stop;

/// Writes to standard output at once.
pub(super) fn out(text: &str) -> Result<(), Stop> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| failed(None, &e))
}

/// Says something to the person, on standard error, without disturbing the output.
pub(super) fn tell(line: &str) {
    let _ = io::stderr().write_all(format!("fws: {line}\n").as_bytes());
}

/// Where much is written to, piece by piece: standard output, or a new file.
pub(super) struct Output {
    sink: BufWriter<Box<dyn Write>>,
    file: Option<(PathBuf, File)>,
}

impl Output {
    /// Standard output, or a file (mode 0600) that must not be there yet.
    pub fn open(path: Option<&str>) -> Result<Output, Stop> {
        let Some(path) = path else {
            return Ok(Output { sink: BufWriter::new(Box::new(io::stdout())), file: None });
        };
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let opened = opened.and_then(|file| Ok((file.try_clone()?, file)));
        let (sink, file) = opened.map_err(|e| match e.kind() {
            ErrorKind::AlreadyExists => {
                Stop::Failed(format!("{path} is there already, and is not written over"))
            }
            _ => Stop::Failed(format!("cannot make {path}: {e}")),
        })?;
        let sink = BufWriter::new(Box::new(sink) as Box<dyn Write>);
        Ok(Output { sink, file: Some((path.into(), file)) })
    }

    /// Writes one more piece.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.sink.write_all(bytes).map_err(|e| failed(self.path(), &e))
    }

    /// Writes what is left. A file is on disk when this returns.
    pub fn finish(mut self) -> Result<(), Stop> {
        let written = self.sink.flush();
        let synced = written.and_then(|()| match &self.file {
            Some((_, file)) => file.sync_all(),
            None => Ok(()),
        });
        synced.map_err(|e| failed(self.path(), &e))?;
        self.file = None;
        Ok(())
    }

    fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|(path, _)| path.as_path())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // Half a file is worse than none. We have made it, so it is ours.
        if let Some((path, _)) = &self.file {
            let _ = fs::remove_file(path);
        }
    }
}

fn failed(path: Option<&Path>, e: &io::Error) -> Stop {
    match (path, e.kind()) {
        (Some(path), _) => Stop::Failed(format!("cannot write {}: {e}", path.display())),
        (None, ErrorKind::BrokenPipe) => Stop::Closed,
        (None, _) => Stop::Failed(format!("cannot write to standard output: {e}")),
    }
}

/// A text from elsewhere, such that it can neither move the cursor nor begin a line.
pub(super) fn printable(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().collect() } else { vec![c] };
    text.chars().flat_map(escape).collect()
}
