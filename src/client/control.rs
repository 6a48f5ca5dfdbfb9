//! A client of the control port: commands and their replies (protocol parts 2 to 4), one at a time.

use super::{ANSWER_MS, Address, ClientError, Deadline, MESSAGE_BYTES, Stream};
use crate::codec::control::{self, Decoder};

/// Longest command in bytes: no server's limit allows more.
const COMMAND_BYTES: usize = 1 << 30;

/// Bytes read at a time.
const PIECE_BYTES: usize = 16_384;

/// One connection to a control port.
#[derive(Debug)]
pub struct Control {
    stream: Stream,
}

impl Control {
    /// Connects, within 4 s.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(address: &Address) -> Result<Control, ClientError> {
        Ok(Control { stream: Stream::connect(address)? })
    }

    /// Sends a command, which is JSON, and waits up to 10 s for the body of its reply.
    ///
    /// # Errors
    /// [`ClientError`], after which the connection cannot be used.
    pub fn ask(&mut self, command: &[u8]) -> Result<String, ClientError> {
        if command.len() > COMMAND_BYTES {
            return Err(ClientError::TooLong(command.len()));
        }
        let deadline = Deadline::after(ANSWER_MS);
        let mut frame = Vec::new();
        control::encode_into(&mut frame, command);
        self.stream.write_all(&frame, &deadline)?;
        let mut decoder = Decoder::new();
        let mut piece = [0; PIECE_BYTES];
        // What the decoder left, up to three bytes of a length, precedes what comes next.
        let mut kept = 0;
        loop {
            let filled = kept + self.stream.read(&mut piece[kept..], &deadline)?;
            if piece[..filled].starts_with(b"HTTP") {
                let what = "it speaks HTTP; back ends have a port of their own";
                return Err(ClientError::Foreign(what.into()));
            }
            let decoded = decoder
                .next(&piece[..filled], MESSAGE_BYTES)
                .map_err(|e| ClientError::Foreign(e.to_string()))?;
            if let Some(body) = decoded.body {
                return String::from_utf8(body.to_vec())
                    .map_err(|_| ClientError::Foreign("its reply is not UTF-8".into()));
            }
            let consumed = decoded.consumed;
            piece.copy_within(consumed..filled, 0);
            kept = filled - consumed;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Asks a server that reads a frame of three bytes and sends these pieces, each in a segment.
    fn ask(pieces: Vec<Vec<u8>>) -> Result<String, ClientError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::to_reach(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            let mut frame = [0; 8];
            stream.read_exact(&mut frame).unwrap();
            assert_eq!(frame, *b"\x03\0\0\0\"a\"\0");
            for piece in pieces {
                stream.write_all(&piece).unwrap();
            }
        });
        let answer = Control::connect(&address).unwrap().ask(b"\"a\"");
        server.join().unwrap();
        answer
    }

    #[test]
    fn an_answer_is_read_in_pieces_of_any_size() {
        let whole = control::encode("é".repeat(20_000).as_bytes()).to_vec();
        let bytes = whole.iter().map(|byte| vec![*byte]).take(9).chain([whole[9..].to_vec()]);
        for pieces in [vec![whole.clone()], bytes.collect()] {
            assert_eq!(ask(pieces).unwrap(), "é".repeat(20_000));
        }
    }

    #[test]
    fn truncated_and_foreign_answers_are_errors() {
        let half = control::encode(b"answer")[..7].to_vec();
        assert!(matches!(ask(vec![half]), Err(ClientError::Lost)));
        assert!(matches!(ask(vec![]), Err(ClientError::Lost)));
        assert!(matches!(ask(vec![b"HTTP/1.1 400".to_vec()]), Err(ClientError::Foreign(_))));
        assert!(matches!(ask(vec![b"\0\0\0\0".to_vec()]), Err(ClientError::Foreign(_))));
        let long = u32::try_from(MESSAGE_BYTES + 1).unwrap().to_le_bytes();
        assert!(matches!(ask(vec![long.to_vec()]), Err(ClientError::Foreign(_))));
        assert!(matches!(ask(vec![b"\x01\0\0\0\xff\0".to_vec()]), Err(ClientError::Foreign(_))));
    }
}
