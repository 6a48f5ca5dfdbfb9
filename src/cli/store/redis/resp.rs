//! What is spoken with Redis: RESP, second version (redis.io, "Redis serialization protocol"), over
//! TCP or a unix socket. Knows no command but those that open a connection, and believes no length:
//! what is announced is not allocated before it has come.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// Longest line: an error in words.
const LINE_BYTES: u64 = 64 * 1024;
/// Longest string that Redis keeps.
const BULK_BYTES: u64 = 512 << 20;
/// An answer to SCAN has a list in a list.
const DEPTH: usize = 4;

/// Where a Redis is, and who asks it for which of its databases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    pub place: Place,
    pub user: Option<String>,
    pub password: Option<String>,
    pub database: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl Default for Place {
    fn default() -> Place {
        Place::Unix(PathBuf::new())
    }
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Nil,
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    /// The command was refused, in these words.
    Error(String),
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(into),
            Stream::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection.
pub(super) struct Redis(BufReader<Stream>);

impl Redis {
    /// Connects, says who asks, and chooses the database. Nothing takes longer than `time`.
    ///
    /// # Errors
    /// Those of the network, and what Redis says against it.
    pub fn connect(target: &Target, time: Duration) -> io::Result<Redis> {
        let stream = match &target.place {
            Place::Tcp(host, port) => {
                let mut last = Error::new(ErrorKind::NotFound, format!("{host} has no address"));
                let mut connected = None;
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, time) {
                        Ok(stream) => connected = Some(stream),
                        Err(error) => last = error,
                    }
                    if connected.is_some() {
                        break;
                    }
                }
                let stream = connected.ok_or(last)?;
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))?;
                Stream::Tcp(stream)
            }
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(time))?;
                stream.set_write_timeout(Some(time))?;
                Stream::Unix(stream)
            }
        };
        let mut redis = Redis(BufReader::new(stream));
        if let Some(password) = &target.password {
            let mut command = vec![&b"AUTH"[..]];
            command.extend(target.user.as_ref().map(String::as_bytes));
            command.push(password.as_bytes());
            redis.order(&command)?;
        }
        if target.database > 0 {
            redis.order(&[b"SELECT", target.database.to_string().as_bytes()])?;
        }
        Ok(redis)
    }

    /// One command whose answer is only whether it was carried out.
    fn order(&mut self, command: &[&[u8]]) -> io::Result<()> {
        match self.ask(&[command.to_vec()])?.pop() {
            Some(Value::Error(words)) => Err(Error::other(words)),
            _ => Ok(()),
        }
    }

    /// Asks all at once; an answer for each.
    ///
    /// # Errors
    /// Those of the network, and `InvalidData` for what is no RESP.
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
        self.0.get_mut().write_all(&bytes)?;
        commands.iter().map(|_| value(&mut self.0, DEPTH)).collect()
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

    #[test]
    fn answers_are_read() {
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
