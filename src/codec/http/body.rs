//! Request bodies, by length or in chunked coding (RFC 9112, 6 and 7.1), split anywhere.
//!
//! Owns only the position in the body; the content is appended to the caller's buffer or dropped.
//! Strict where leniency would let two recipients see two requests: lines of the chunked coding end
//! in CR LF, and a chunk size is hexadecimal digits and nothing else.

use super::Content;

/// Maximum digits of a chunk size: more than any allowed body needs.
const SIZE_DIGITS: usize = 8;
/// Maximum length of one chunk extension, in bytes. Extensions are ignored.
const EXTENSION_BYTES: usize = 256;
/// Maximum bytes of the trailer section. Trailers must be valid headers, and are ignored.
const TRAILER_BYTES: usize = 4096;

/// Why a body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The chunked coding is malformed, or has an oversized extension or trailer.
    Chunks,
    /// It is longer than allowed.
    TooLarge,
}

/// The position of a reader in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// This many bytes of the body or of a chunk are still to come.
    Data(u64),
    /// In a chunk size: number of digits so far.
    Size(usize),
    /// In a chunk extension: number of bytes so far.
    Extension(usize),
    /// After the CR of a chunk-size line.
    SizeEnd,
    /// After the data of a chunk, and after the CR that follows it.
    DataEnd,
    DataEndLf,
    /// At the start of a trailer line, in its name, in its value, and after its CR: bytes of the
    /// section so far.
    Trailer(usize),
    TrailerName(usize),
    TrailerValue(usize),
    TrailerEnd(usize),
    /// After the CR of the empty line.
    SectionEnd,
    /// After the body.
    Done,
}

/// Reads one body.
#[derive(Debug)]
pub struct BodyReader {
    at: At,
    is_chunked: bool,
    /// The chunk size being read.
    size: u64,
    /// Bytes of the body so far, and the maximum.
    total: u64,
    max: u64,
}

impl BodyReader {
    /// Creates a reader for the body that follows a head.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] if the declared length exceeds `max` bytes.
    pub fn new(content: Content, max: usize) -> Result<BodyReader, BodyError> {
        let max = max as u64;
        let (at, is_chunked) = match content {
            Content::None | Content::Length(0) => (At::Done, false),
            Content::Length(length) if length > max => return Err(BodyError::TooLarge),
            Content::Length(length) => (At::Data(length), false),
            Content::Chunked => (At::Size(0), true),
        };
        Ok(BodyReader { at, is_chunked, size: 0, total: 0, max })
    }

    /// Returns whether the whole body has been read.
    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Continues reading and appends the content to `out`, if there is one. Returns how many bytes
    /// were consumed: all, or those up to the end of the body.
    ///
    /// # Errors
    /// [`BodyError`]; the reader must not be used afterwards.
    pub fn read(
        &mut self,
        input: &[u8],
        mut out: Option<&mut Vec<u8>>,
    ) -> Result<usize, BodyError> {
        let mut used = 0;
        while used < input.len() && self.at != At::Done {
            if let At::Data(missing) = self.at {
                let rest = &input[used..];
                let count = usize::try_from(missing).unwrap_or(usize::MAX).min(rest.len());
                if let Some(out) = out.as_mut() {
                    if !self.is_chunked && out.capacity() - out.len() < count {
                        // Double the capacity, but never beyond the known end.
                        let missing = usize::try_from(missing).unwrap_or(usize::MAX);
                        out.reserve_exact(out.len().clamp(count, missing));
                    }
                    out.extend_from_slice(&rest[..count]);
                }
                used += count;
                self.at = match (missing - count as u64, self.is_chunked) {
                    (0, true) => At::DataEnd,
                    (0, false) => At::Done,
                    (missing, _) => At::Data(missing),
                };
                continue;
            }
            self.at = self.step(input[used])?;
            used += 1;
        }
        Ok(used)
    }

    /// Processes one byte between the data of chunks.
    fn step(&mut self, byte: u8) -> Result<At, BodyError> {
        Ok(match (self.at, byte) {
            (At::Size(digits), _) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS => {
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.size = self.size << 4 | u64::from(digit);
                At::Size(digits + 1)
            }
            (At::Size(1..), b';') => At::Extension(0),
            (At::Size(1..), b'\r') => At::SizeEnd,
            (At::Extension(_), b'\r') => At::SizeEnd,
            (At::Extension(bytes), b'\t' | b' '..=b'~' | 0x80..) if bytes < EXTENSION_BYTES => {
                At::Extension(bytes + 1)
            }
            (At::SizeEnd, b'\n') => {
                let size = std::mem::take(&mut self.size);
                self.total += size;
                if self.total > self.max {
                    return Err(BodyError::TooLarge);
                }
                if size == 0 { At::Trailer(0) } else { At::Data(size) }
            }
            (At::DataEnd, b'\r') => At::DataEndLf,
            (At::DataEndLf, b'\n') => At::Size(0),
            (At::Trailer(_), b'\r') => At::SectionEnd,
            (At::SectionEnd, b'\n') => At::Done,
            (At::Trailer(bytes) | At::TrailerName(bytes), _)
                if is_in_name(byte) && bytes < TRAILER_BYTES =>
            {
                At::TrailerName(bytes + 1)
            }
            (At::TrailerName(bytes), b':') => At::TrailerValue(bytes + 1),
            (At::TrailerValue(bytes), b'\r') => At::TrailerEnd(bytes),
            (At::TrailerValue(bytes), b'\t' | b' '..=b'~' | 0x80..) if bytes < TRAILER_BYTES => {
                At::TrailerValue(bytes + 1)
            }
            (At::TrailerEnd(bytes), b'\n') => At::Trailer(bytes),
            _ => return Err(BodyError::Chunks),
        })
    }
}

/// Returns whether a byte may occur in a header name (RFC 9110, 5.6.2).
fn is_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Fuzz target. The first byte sets the framing and the step size. Panics if the steps make a
/// difference, or if more is consumed than there is.
pub fn fuzz_body(data: &[u8]) {
    let Some((first, input)) = data.split_first() else { return };
    let content = match first & 1 {
        0 => Content::Chunked,
        _ => Content::Length(u64::from(*first)),
    };
    let read = |step: usize| {
        let mut reader = BodyReader::new(content, 1024).map_err(|error| (error, Vec::new()))?;
        let (mut out, mut used) = (Vec::new(), 0);
        for piece in input.chunks(step) {
            match reader.read(piece, Some(&mut out)) {
                Ok(count) => used += count,
                Err(error) => return Err((error, out)),
            }
            if reader.is_done() {
                break;
            }
        }
        assert!(used <= input.len() && out.len() <= used.min(1024));
        Ok((used, out, reader.is_done()))
    };
    assert_eq!(read(1 + usize::from(*first >> 1)), read(input.len().max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the body and the input after it, which must be the same for pieces of any length.
    fn read(content: Content, input: &str) -> Result<(String, String), BodyError> {
        let mut last = None;
        for step in 1..=input.len().max(1) {
            let mut reader = BodyReader::new(content, 20)?;
            let (mut out, mut used) = (Vec::new(), 0);
            let mut result = Ok(());
            for piece in input.as_bytes().chunks(step) {
                match reader.read(piece, Some(&mut out)) {
                    Ok(count) => used += count,
                    Err(error) => result = Err(error),
                }
                if reader.is_done() || result.is_err() {
                    break;
                }
            }
            let body = String::from_utf8(out).unwrap();
            let rest = if reader.is_done() { &input[used..] } else { "incomplete" };
            let result = result.map(|()| (body, rest.to_owned()));
            assert!(last.is_none() || last == Some(result.clone()), "{step}");
            last = Some(result);
        }
        last.unwrap()
    }

    fn parsed(body: &str, rest: &str) -> Result<(String, String), BodyError> {
        Ok((body.into(), rest.into()))
    }

    #[test]
    fn a_body_ends_at_its_content_length() {
        assert_eq!(read(Content::Length(3), "abcGET"), parsed("abc", "GET"));
        assert_eq!(read(Content::Length(3), "ab"), parsed("ab", "incomplete"));
        assert_eq!(read(Content::None, "GET"), parsed("", "GET"));
        assert_eq!(read(Content::Length(20), "").unwrap().1, "incomplete");
        assert_eq!(read(Content::Length(21), ""), Err(BodyError::TooLarge));
    }

    #[test]
    fn a_body_buffer_grows_by_doubling_up_to_the_content_length() {
        for step in [1, 7, 100, 600, 1000] {
            let (mut out, mut copied) = (Vec::new(), 0);
            let mut reader = BodyReader::new(Content::Length(1000), 1000).unwrap();
            for piece in [b'x'; 1000].chunks(step) {
                let (before, room) = (out.len(), out.capacity());
                assert_eq!(reader.read(piece, Some(&mut out)), Ok(piece.len()));
                copied += if out.capacity() > room { before } else { 0 };
                assert!(out.capacity() <= (2 * out.len()).min(1000), "{step}");
            }
            assert!(copied <= 2000 && reader.is_done(), "{step}: {copied} bytes copied");
        }
    }

    #[test]
    fn chunks_are_joined_up_to_the_size_limit() {
        let chunks = "3\r\nabc\r\n00a;x=\"y\"\r\n0123456789\r\n0\r\n\r\nGET";
        assert_eq!(read(Content::Chunked, chunks), parsed("abc0123456789", "GET"));
        assert_eq!(read(Content::Chunked, "0\r\nA: b\r\nC: d\r\n\r\n"), parsed("", ""));
        assert_eq!(read(Content::Chunked, "3\r\nab").unwrap().1, "incomplete");
        let error = Err(BodyError::TooLarge);
        assert_eq!(read(Content::Chunked, "15\r\n"), error);
        assert_eq!(read(Content::Chunked, "10\r\n0123456789abcdef\r\n5\r\n"), error);
        assert_eq!(read(Content::Chunked, "ffffffff\r\n"), error);
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for chunks in [
            "\r\n",
            "x\r\n",
            "3\n",
            "3\rabc",
            " 3\r\n",
            "3 \r\n",
            "+3\r\n",
            "-1\r\n",
            "0x3\r\n",
            "3;\nabc",
            "3;\0\r\n",
            "3\r\nabcd\r\n",
            "3\r\nabc\n",
            "3\r\nabc\r\r\n",
            "0\r\n\n",
            "0\r\nA\n\r\n",
            "123456789\r\n",
            "0\r\n\r\r\n",
            "\r\n3\r\nabc",
        ] {
            assert_eq!(read(Content::Chunked, chunks), Err(BodyError::Chunks), "{chunks:?}");
        }
        let long = format!("3;{}\r\n", "x".repeat(EXTENSION_BYTES + 1));
        assert_eq!(read(Content::Chunked, &long), Err(BodyError::Chunks));
        let long = format!("0\r\n{}", "A: b\r\n".repeat(TRAILER_BYTES / 4 + 1));
        let mut reader = BodyReader::new(Content::Chunked, 20).unwrap();
        assert_eq!(reader.read(long.as_bytes(), None), Err(BodyError::Chunks));
    }

    #[test]
    fn a_trailer_line_is_valid_if_it_is_a_valid_header() {
        let is_valid = |line: &[u8]| {
            let input = [line, b"\r\n\r\n"].concat();
            let mut headers = [httparse::EMPTY_HEADER; 2];
            let parsed = httparse::parse_headers(&input, &mut headers);
            let is_header = matches!(parsed, Ok(httparse::Status::Complete((_, [_]))));
            let mut reader = BodyReader::new(Content::Chunked, 20).unwrap();
            let read = reader.read(&[b"0\r\n", &input[..]].concat(), None);
            assert_eq!(read.is_ok(), is_header, "{}", line.escape_ascii());
            is_header
        };
        for byte in (0..=255).filter(|byte| !b"\r\n".contains(byte)) {
            for line in [&[byte, b'A', b':'][..], &[b'A', byte, b':'], &[b'A', b':', byte]] {
                is_valid(line);
            }
        }
        for line in ["A", ":", "A b: c", "A :b", " A: b", "GET / HTTP/1.1", "A: b\x7f"] {
            assert!(!is_valid(line.as_bytes()), "{line:?}");
        }
        for line in ["A:", "A: b", "A:\t b ", "a-B_1: é"] {
            assert!(is_valid(line.as_bytes()), "{line:?}");
        }
    }

    #[test]
    fn the_fuzz_target_passes_on_sample_inputs() {
        for data in [&b""[..], b"\0", b"\x063\r\nabc\r\n0\r\n\r\n", b"\x05abcdefg", b"\xffab"] {
            fuzz_body(data);
        }
    }
}
