//! One page over HTTP, from the admin door.

use super::{ANSWER_MS, Address, ClientError, Deadline, Stream};

/// Longest answer that is read, in bytes.
const PAGE_BYTES: usize = 64 << 20;

/// Read at a time, in bytes.
const PIECE_BYTES: usize = 16_384;

/// Connects, within 4 s, and asks for a page, within 10 s: its status and body.
///
/// # Errors
/// [`ClientError`].
pub fn page(address: &Address, path: &str) -> Result<(u16, String), ClientError> {
    let mut stream = Stream::connect(address)?;
    let deadline = Deadline::after(ANSWER_MS);
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes(), &deadline)?;
    let mut answer = Vec::new();
    let mut piece = [0; PIECE_BYTES];
    loop {
        if let Some(found) = parse(&answer)? {
            return Ok(found);
        }
        if answer.len() > PAGE_BYTES {
            return Err(ClientError::Foreign("its answer has no end".into()));
        }
        let count = stream.read(&mut piece, &deadline)?;
        answer.extend_from_slice(&piece[..count]);
    }
}

/// Status and body, if all is there.
fn parse(answer: &[u8]) -> Result<Option<(u16, String)>, ClientError> {
    let foreign = || ClientError::Foreign("it does not speak HTTP".into());
    let start = &answer[..answer.len().min(9)];
    if !b"HTTP/1.1 ".starts_with(start) {
        return Err(foreign());
    }
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = str::from_utf8(&answer[..end]).map_err(|_| foreign())?;
    let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or_else(foreign)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value.trim())
    });
    let length: usize = length.and_then(|length| length.parse().ok()).ok_or_else(foreign)?;
    let Some(body) = answer[end + 4..].get(..length) else { return Ok(None) };
    let body = str::from_utf8(body).map_err(|_| foreign())?;
    Ok(Some((status, body.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_when_all_of_it_is_there() {
        let whole = b"HTTP/1.1 503 x\r\nA: b\r\ncontent-length: 3\r\n\r\nabc";
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).unwrap().is_none(), "{end}");
        }
        assert_eq!(parse(whole).unwrap(), Some((503, "abc".into())));
        for bad in ["SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
