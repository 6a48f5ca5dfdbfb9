//! TLS through the program `openssl`, over pipes: only `fws doctor` needs it, and a library for it
//! would be larger than the server. Owns the process.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use super::{ClientError, Deadline};
use crate::mailbox::{Receiver, RecvError, Sender, mailbox};

/// Bytes read at a time, and how many such pieces may be queued.
const PIECE_BYTES: usize = 16_384;
const PIECES: usize = 16;

/// Most bytes that are read of the program's error output.
const COMPLAINT_BYTES: u64 = 65_536;

/// Prefix of the error for a certificate that a browser would reject.
pub(super) const CERTIFICATE: &str = "the certificate is refused: ";

/// What the program prints when the handshake is over.
const ESTABLISHED: &str = "CONNECTION ESTABLISHED";

/// One connection.
#[derive(Debug)]
pub(crate) struct Tls {
    child: Child,
    /// To a thread that writes, because a pipe has no time limit to set; and what it has written.
    output: Sender<Vec<u8>>,
    written: Receiver<Vec<u8>>,
    pieces: Receiver<Vec<u8>>,
    /// Received and not read yet.
    rest: Vec<u8>,
    has_read: bool,
}

impl Tls {
    /// Starts the program. Whether the connection succeeds shows at the first read.
    pub fn start(host: &str, port: u16, is_verified: bool) -> Result<Tls, ClientError> {
        let is_ip = host.parse::<std::net::IpAddr>().is_ok();
        let place = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let mut command = Command::new("openssl");
        // `-quiet`: it prints only what the server sends, and no byte of ours is a command.
        // `-brief`: it prints on standard error that the handshake is over.
        command.args(["s_client", "-quiet", "-brief", "-connect", &format!("{place}:{port}")]);
        match is_ip {
            true => command.arg("-noservername"),
            false => command.args(["-servername", host]),
        };
        if is_verified {
            command.args([
                "-verify_return_error",
                if is_ip { "-verify_ip" } else { "-verify_hostname" },
            ]);
            command.arg(host);
        }
        Tls::over(command)
    }

    /// Starts that program.
    fn over(mut command: Command) -> Result<Tls, ClientError> {
        let failed = |e: std::io::Error| {
            ClientError::Tls(format!("the program openssl, which makes it, does not start: {e}"))
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let (mut stdin, mut stdout) = (child.stdin.take(), child.stdout.take());
        let (sender, pieces) = mailbox();
        let copy = move || {
            let mut piece = [0; PIECE_BYTES];
            while let Some(stdout) = &mut stdout
                && let Ok(count) = stdout.read(&mut piece)
                && count > 0
                && sender.send_within(PIECES, piece.get(..count).unwrap_or_default().to_vec())
            {
            }
        };
        std::thread::Builder::new().spawn(copy).map_err(failed)?;
        let ((output, pieces_out), (done, written)) = (mailbox::<Vec<u8>>(), mailbox());
        let write = move || {
            while let Some(stdin) = &mut stdin
                && let Ok(bytes) = pieces_out.recv(None)
                && stdin.write_all(&bytes).and_then(|()| stdin.flush()).is_ok()
                && done.send(bytes)
            {}
        };
        std::thread::Builder::new().spawn(write).map_err(failed)?;
        Ok(Tls { child, output, written, pieces, rest: Vec::new(), has_read: false })
    }

    pub fn read(&mut self, out: &mut [u8], deadline: &Deadline) -> Result<usize, ClientError> {
        if self.rest.is_empty() {
            let left = deadline.left().ok_or(ClientError::Silence)?;
            self.rest = self.pieces.recv(Some(left)).map_err(|e| match e {
                RecvError::Timeout if self.has_read => ClientError::Silence,
                RecvError::Timeout => self.complaint(ClientError::Silence),
                RecvError::Closed if self.has_read => ClientError::Lost,
                RecvError::Closed => self.complaint(ClientError::Lost),
            })?;
            self.has_read = true;
        }
        let count = self.rest.len().min(out.len());
        for (to, from) in out.iter_mut().zip(self.rest.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }

    pub fn write_all(&mut self, bytes: &[u8], deadline: &Deadline) -> Result<(), ClientError> {
        let left = deadline.left().ok_or(ClientError::Silence)?;
        self.output.send(bytes.to_vec());
        let error = match self.written.recv(Some(left)) {
            Ok(_) => return Ok(()),
            Err(RecvError::Timeout) => ClientError::Silence,
            Err(RecvError::Closed) => ClientError::Lost,
        };
        // The rest of this write would be taken for the next one.
        let _ = self.child.kill();
        Err(if self.has_read { error } else { self.complaint(error) })
    }

    /// Returns why nothing has come and nothing will: `otherwise` if TLS itself has worked.
    fn complaint(&mut self, otherwise: ClientError) -> ClientError {
        let mut said = Vec::new();
        // It may have ended by itself.
        let _ = self.child.kill();
        if let Some(stderr) = self.child.stderr.take() {
            // A part of it may say enough.
            let _ = stderr.take(COMPLAINT_BYTES).read_to_end(&mut said);
        }
        let said = String::from_utf8_lossy(&said);
        match said.split_once(ESTABLISHED) {
            // Errors of a certificate that is not verified are printed before that line.
            Some((_, behind)) => reason(behind).map_or(otherwise, ClientError::Tls),
            None => ClientError::Tls(
                reason(&said).unwrap_or_else(|| "the handshake is not answered".into()),
            ),
        }
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the error that the program reports, in its own words.
fn reason(said: &str) -> Option<String> {
    let verify = said.lines().find_map(|line| line.strip_prefix("verify error:num="));
    if let Some((_, what)) = verify.and_then(|verify| verify.split_once(':')) {
        return Some(format!("{CERTIFICATE}{what}"));
    }
    // THREAD:error:CODE:LIBRARY:FUNCTION:REASON:FILE:LINE:
    said.lines().find_map(|line| {
        let (_, behind) = line.split_once(":error:")?;
        Some(behind.split(':').nth(3)?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_is_not_accepted_ends_at_its_deadline() {
        let mut child = Command::new("sleep");
        child.arg("60");
        let mut tls = Tls::over(child).unwrap();
        let written = tls.write_all(&[0; 1 << 20], &Deadline::after(100));
        assert!(matches!(written, Err(ClientError::Silence | ClientError::Tls(_))));
    }

    #[test]
    fn reasons_are_extracted_from_the_output_of_openssl() {
        let line = "40:error:0A00010B:SSL routines:ssl3_get_record:wrong version number:../a.c:3:";
        assert_eq!(reason(line).as_deref(), Some("wrong version number"));
        let newer = "40:error:0A0000C6:SSL routines::packet length too long:../a.c:3:\n";
        assert_eq!(reason(newer).as_deref(), Some("packet length too long"));
        let verify = "depth=0 CN = a\nverify error:num=18:self-signed certificate\n".to_owned();
        let refused = reason(&(verify + line));
        assert_eq!(refused.as_deref(), Some("the certificate is refused: self-signed certificate"));
        assert_eq!(reason("depth=0 CN = a\nverify return:1\n"), None);
    }
}
