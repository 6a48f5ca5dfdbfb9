//! RESP 2, the protocol of Redis (redis.io, "Redis serialization protocol"), over TCP or a unix
//! socket. Knows only the commands that open a connection. Trusts no length: memory is allocated as
//! bytes arrive, not as announced.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};

use crate::client::{Address, ClientError, Deadline, Stream};

/// Longest line, in bytes: an error message.
const LINE_BYTES: u64 = 64 * 1024;
/// Longest string that Redis stores, in bytes.
const BULK_BYTES: u64 = 512 << 20;
/// Deepest nesting: an answer to SCAN is a list in a list.
const DEPTH: usize = 4;
/// How an error begins that concerns one key only.
const WRONG_TYPE: &str = "WRONGTYPE ";

/// Where to connect, as which user, and which database to select.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub place: Address,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: u32,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    /// The command was refused, with this message.
    Error(String),
}

/// A stream with a deadline for each whole answer, however slowly its bytes trickle in.
struct Timed {
    stream: Stream,
    deadline: Deadline,
}

impl Read for Timed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.read(into, &self.deadline).map_err(of_network)
    }
}

fn of_network(error: ClientError) -> Error {
    match error {
        ClientError::Connect(_, error) => error,
        ClientError::Silence => Error::new(ErrorKind::TimedOut, "it does not answer in time"),
        _ => Error::new(ErrorKind::UnexpectedEof, "it has closed the connection"),
    }
}

/// A connection.
pub(super) struct Redis {
    input: BufReader<Timed>,
    answer_ms: u64,
}

impl Redis {
    /// Connects within 4 s, authenticates and selects the database. Each answer, here and later,
    /// must be complete within `answer_ms` milliseconds.
    ///
    /// # Errors
    /// Errors of the network, and refusals by Redis.
    pub fn connect(target: &Target, answer_ms: u64) -> io::Result<Redis> {
        let stream = Stream::connect(&target.place).map_err(of_network)?;
        let input = BufReader::new(Timed { stream, deadline: Deadline::after(answer_ms) });
        let mut redis = Redis { input, answer_ms };
        if let Some(password) = &target.password {
            let mut command = vec![&b"AUTH"[..]];
            command.extend(target.user.as_ref().map(String::as_bytes));
            command.push(password.as_bytes());
            redis.ask(&[command])?;
        }
        if target.database > 0 {
            redis.ask(&[vec![b"SELECT", target.database.to_string().as_bytes()]])?;
        }
        Ok(redis)
    }

    /// Sends all commands at once; returns an answer for each. The only [`Value::Error`] among them
    /// is that a key holds a value of another type.
    ///
    /// # Errors
    /// Errors of the network, `InvalidData` for what is not RESP, and every other refusal: Redis
    /// may be busy or loading, or the user may lack a right, and the missing answers would look
    /// like missing keys.
    pub fn ask(&mut self, commands: &[Vec<&[u8]>]) -> io::Result<Vec<Value>> {
        let mut bytes = Vec::new();
        for command in commands {
            write!(bytes, "*{}\r\n", command.len())?;
            for word in command {
                write!(bytes, "${}\r\n", word.len())?;
                bytes.extend_from_slice(word);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        let deadline = Deadline::after(self.answer_ms);
        self.input.get_mut().stream.write_all(&bytes, &deadline).map_err(of_network)?;
        commands.iter().map(|_| self.answer()).collect()
    }

    fn answer(&mut self) -> io::Result<Value> {
        self.input.get_mut().deadline = Deadline::after(self.answer_ms);
        match value(&mut self.input, DEPTH)? {
            Value::Error(words) if !words.starts_with(WRONG_TYPE) => Err(Error::other(words)),
            value => Ok(value),
        }
    }
}

/// Reads one value.
fn value(input: &mut impl BufRead, depth: usize) -> io::Result<Value> {
    let mut line = Vec::new();
    input.take(LINE_BYTES).read_until(b'\n', &mut line)?;
    let wrong = || Error::new(ErrorKind::InvalidData, "that is no answer of a Redis");
    let text = line.strip_suffix(b"\r\n").and_then(|line| str::from_utf8(line).ok());
    if line.is_empty() {
        return Err(Error::new(ErrorKind::UnexpectedEof, "it has closed the connection"));
    }
    let (kind, rest) = text.and_then(|text| text.split_at_checked(1)).ok_or_else(wrong)?;
    let number = || rest.parse::<i64>().map_err(|_| wrong());
    match kind {
        "+" => Ok(Value::Bytes(rest.into())),
        "-" => Ok(Value::Error(rest.into())),
        ":" => Ok(Value::Int(number()?)),
        "$" => match number()? {
            -1 => Ok(Value::Nil),
            length => {
                let length = u64::try_from(length).ok().filter(|length| *length <= BULK_BYTES);
                let length = length.ok_or_else(wrong)?;
                let mut bytes = Vec::new();
                input.take(length + 2).read_to_end(&mut bytes)?;
                let is_whole = bytes.len() as u64 == length + 2 && bytes.ends_with(b"\r\n");
                bytes.truncate(bytes.len().saturating_sub(2));
                is_whole.then_some(Value::Bytes(bytes)).ok_or_else(wrong)
            }
        },
        "*" => match number()? {
            -1 => Ok(Value::Nil),
            count if depth > 0 && count >= 0 => (0..count)
                .map(|_| value(input, depth - 1))
                .collect::<io::Result<_>>()
                .map(Value::List),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mailbox::mailbox;
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn a_reply_that_trickles_in_times_out_as_a_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = Address::to_reach(listener.local_addr().unwrap());
        let target = Target { place, user: None, password: None, database: 1 };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let (_sender, never) = mailbox::<()>();
            // Each byte is in time; the answer as a whole would take 5 s.
            for byte in [&b"+"[..]].into_iter().chain([&b"x"[..]; 500]) {
                if stream.write_all(byte).is_err() {
                    return;
                }
                let _ = never.recv(Some(Duration::from_millis(10)));
            }
            stream.write_all(b"\r\n").unwrap();
        });
        let error = Redis::connect(&target, 200).err().map(|error| error.kind());
        assert_eq!(error, Some(ErrorKind::TimedOut));
        server.join().unwrap();
    }

    #[test]
    fn replies_are_parsed_and_malformed_ones_refused() {
        let read = |text: &str| value(&mut text.as_bytes(), DEPTH);
        let bytes = |text: &str| Value::Bytes(text.into());
        for (text, meaning) in [
            ("+OK\r\n", bytes("OK")),
            ("-ERR no\r\n", Value::Error("ERR no".into())),
            (":-1\r\n", Value::Int(-1)),
            ("$-1\r\n", Value::Nil),
            ("$0\r\n\r\n", bytes("")),
            ("$4\r\na\r\nb\r\n", bytes("a\r\nb")),
            ("*2\r\n$1\r\n7\r\n*1\r\n$1\r\nk\r\n", {
                Value::List(vec![bytes("7"), Value::List(vec![bytes("k")])])
            }),
        ] {
            assert_eq!(read(text).unwrap(), meaning, "{text:?}");
        }
        let deep = "*1\r\n".repeat(9);
        for wrong in
            ["", "OK\r\n", "$5\r\nab", "$2\r\nabc\r\n", ":x\r\n", "$-2\r\n", "+OK\n", &deep]
        {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
        for huge in ["$9999999999999\r\n", "$500000000\r\nx", "*1000000000\r\n:1\r\n"] {
            assert!(read(huge).is_err(), "{huge:?}");
        }
    }
}
