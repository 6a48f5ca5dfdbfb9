//! Frames of the control port (protocol part 2): a length N in four bytes (`i32`, little-endian), N
//! bytes of body, and a zero byte. Owns where frames begin and end; never looks into a body. Called
//! by the switch for its controllers (back ends) and by our own clients.

use std::fmt;

use crate::frame::Frame;

/// Size of the length field.
pub const LENGTH_BYTES: usize = 4;
/// The longest body that the length field can express, in bytes.
pub const BODY_MAX: usize = i32::MAX as usize;
/// The byte after the body.
const TRAILER: u8 = 0;

/// Why a stream cannot be read on: it is out of sync and can only be closed, not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// A length that is not between 1 and `max`.
    Length {
        /// The length on the wire.
        got: i32,
        /// The maximum body length, in bytes.
        max: usize,
    },
    /// The byte after a body is this one instead of zero.
    Trailer(u8),
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::Length { got, max } => {
                write!(f, "frame length {got} is not from 1 to {max}")
            }
            ControlError::Trailer(byte) => write!(f, "frame ends with byte {byte}, not with 0"),
        }
    }
}

impl std::error::Error for ControlError {}

/// The result of one call of [`Decoder::next`].
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// Bytes of the input that were consumed, with or without a body.
    pub consumed: usize,
    /// The body of one frame; `None` if more bytes are needed.
    pub body: Option<&'a [u8]>,
}

/// Finds the frames in a stream that arrives in pieces. Holds no buffer between frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// A frame whose length is known but whose end did not arrive with it. After it has been
    /// returned it stays until the next call, since the caller borrows it.
    partial: Option<Box<Partial>>,
}

#[derive(Debug)]
struct Partial {
    /// Bytes of the body plus the trailing byte.
    total: usize,
    /// Bytes received so far, at most `total`.
    bytes: Vec<u8>,
}

impl Decoder {
    /// Creates a decoder at the start of a frame. Does not allocate.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes the next frame from `input`. Call again with the unconsumed rest until there is no
    /// body; then at most three bytes are left, which must be put in front of the bytes that arrive
    /// next. That last call also frees the memory of the previous frame.
    ///
    /// `body_max` (bytes) applies to frames that begin in this input. A frame that lies completely
    /// in the input is returned without a copy. Otherwise the decoder keeps what has arrived: its
    /// memory grows with that, never with the declared length.
    ///
    /// # Errors
    /// [`ControlError`], after which the stream is unusable.
    #[inline]
    pub fn next<'a>(
        &'a mut self,
        input: &'a [u8],
        body_max: usize,
    ) -> Result<Decoded<'a>, ControlError> {
        // Most frames lie completely in the input.
        if self.partial.is_none()
            && let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>()
            && let Some(frame) = rest.get(..body_length(*length, body_max)? + 1)
        {
            let (consumed, body) = (LENGTH_BYTES + frame.len(), Some(body_of(frame)?));
            return Ok(Decoded { consumed, body });
        }
        self.next_in_pieces(input, body_max)
    }

    /// Like [`Decoder::next`], however the frame is split.
    fn next_in_pieces<'a>(
        &'a mut self,
        input: &'a [u8],
        body_max: usize,
    ) -> Result<Decoded<'a>, ControlError> {
        let (mut partial, head) = match self.partial.take() {
            Some(partial) if !partial.is_complete() => (partial, 0),
            _ => {
                let Some((length, rest)) = input.split_first_chunk::<LENGTH_BYTES>() else {
                    return Ok(Decoded { consumed: 0, body: None });
                };
                let total = body_length(*length, body_max)? + 1;
                if let Some(frame) = rest.get(..total) {
                    let body = Some(body_of(frame)?);
                    return Ok(Decoded { consumed: LENGTH_BYTES + total, body });
                }
                (Box::new(Partial { total, bytes: Vec::new() }), LENGTH_BYTES)
            }
        };
        let consumed = head + partial.take(&input[head..]);
        let partial = self.partial.insert(partial);
        let body = if partial.is_complete() { Some(body_of(&partial.bytes)?) } else { None };
        Ok(Decoded { consumed, body })
    }

    /// Returns the body length of a frame that does not end in this input, if more than `few` bytes
    /// of the frame have arrived after its length, including those in this input.
    #[inline]
    pub fn outgrows(&self, input: &[u8], few: usize) -> Option<usize> {
        let (length, arrived) = self.ahead(input)?;
        (few < arrived && arrived <= length).then_some(length)
    }

    /// Returns the declared body length of the next or current frame; `None` if the length has not
    /// arrived or is negative.
    pub fn next_length(&self, input: &[u8]) -> Option<usize> {
        self.ahead(input).map(|(length, _)| length)
    }

    /// Returns that length, and how many bytes have arrived after it.
    fn ahead(&self, input: &[u8]) -> Option<(usize, usize)> {
        match self.partial.as_ref().filter(|partial| !partial.is_complete()) {
            Some(partial) => Some((partial.total - 1, partial.bytes.len() + input.len())),
            None => {
                let (length, rest) = input.split_first_chunk::<LENGTH_BYTES>()?;
                Some((usize::try_from(i32::from_le_bytes(*length)).ok()?, rest.len()))
            }
        }
    }

    /// Frees the memory of the last frame returned.
    pub fn release(&mut self) {
        if !self.is_midway() {
            self.partial = None;
        }
    }

    /// Returns what has arrived of the body of an incomplete frame.
    pub fn arrived(&self) -> &[u8] {
        self.partial.as_ref().map_or(&[], |partial| &partial.bytes)
    }

    /// Returns whether the stream is inside a frame whose length is known; its end must arrive
    /// before a deadline. One to three bytes of a length are left with the caller instead.
    pub fn is_midway(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| !partial.is_complete())
    }
}

impl Partial {
    fn is_complete(&self) -> bool {
        self.bytes.len() == self.total
    }

    /// Takes the part of `input` that belongs to this frame; returns its size.
    fn take(&mut self, input: &[u8]) -> usize {
        let held = self.bytes.len();
        let taken = input.len().min(self.total - held);
        if held + taken > self.bytes.capacity() {
            // Doubling copies each byte a bounded number of times, however small the pieces; the
            // last step does not exceed the frame.
            let room = (held + taken).max(2 * held).min(self.total);
            self.bytes.reserve_exact(room - held);
        }
        self.bytes.extend_from_slice(&input[..taken]);
        taken
    }
}

/// Decodes the length field and checks it against `max`.
fn body_length(length: [u8; LENGTH_BYTES], max: usize) -> Result<usize, ControlError> {
    let got = i32::from_le_bytes(length);
    match usize::try_from(got) {
        Ok(length) if (1..=max).contains(&length) => Ok(length),
        _ => Err(ControlError::Length { got, max }),
    }
}

/// Strips and checks the trailing byte of a frame.
fn body_of(frame: &[u8]) -> Result<&[u8], ControlError> {
    match frame {
        [body @ .., TRAILER] => Ok(body),
        [.., other] => Err(ControlError::Trailer(*other)),
        [] => Ok(&[]),
    }
}

/// Encodes a body as one frame: length, body and trailing byte in one buffer, because the PHP
/// client reads them as one piece (protocol part 2).
///
/// # Panics
/// If the body is longer than [`BODY_MAX`], which every limit of the server excludes.
pub fn encode(body: &[u8]) -> Frame {
    let mut frame = Vec::with_capacity(LENGTH_BYTES + body.len() + 1);
    encode_into(&mut frame, body);
    Frame::from(frame)
}

/// Appends a body as one frame.
///
/// # Panics
/// As [`encode`].
#[inline]
pub fn encode_into(out: &mut Vec<u8>, body: &[u8]) {
    let length = i32::try_from(body.len()).expect("no limit allows 2 GiB");
    out.reserve(LENGTH_BYTES + body.len() + 1);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(body);
    out.push(TRAILER);
}

/// Fuzz target: `data` is a list of pieces, each preceded by its length in one byte. Decoding them
/// one by one must give the same as decoding them together.
///
/// # Panics
/// If it does not.
pub fn fuzz_frames(data: &[u8]) {
    let (mut pieces, mut rest) = (Vec::new(), data);
    while let Some((&length, behind)) = rest.split_first() {
        let (piece, behind) = behind.split_at(behind.len().min(length.into()));
        pieces.push(piece);
        rest = behind;
    }
    let whole = pieces.concat();
    let outcome = decode_all(&[&whole], 4096);
    assert_eq!(decode_all(&pieces, 4096), outcome);
    if let Err(error) = outcome.1 {
        assert!(error.to_string().starts_with("frame "));
    }
}

/// The bodies of a stream, and how it ended: whether inside a frame and with how many bytes left
/// over, or with an error.
type Outcome = (Vec<Vec<u8>>, Result<(bool, usize), ControlError>);

/// Feeds pieces to a decoder as a reactor does.
fn decode_all(pieces: &[&[u8]], body_max: usize) -> Outcome {
    let (mut decoder, mut tail, mut bodies) = (Decoder::new(), Vec::new(), Vec::new());
    for piece in pieces {
        tail.extend_from_slice(piece);
        let mut done = 0;
        loop {
            match decoder.next(&tail[done..], body_max) {
                Err(error) => return (bodies, Err(error)),
                Ok(Decoded { consumed, body }) => {
                    done += consumed;
                    let Some(body) = body else { break };
                    bodies.push(body.to_vec());
                }
            }
        }
        tail.drain(..done);
        assert!(tail.len() < LENGTH_BYTES);
    }
    (bodies, Ok((decoder.is_midway(), tail.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 8 << 20;

    fn three_frames() -> (Vec<u8>, Vec<Vec<u8>>) {
        let bodies = [&b"{}"[..], b"x", br#"{"action":"ping"}"#].map(<[u8]>::to_vec).to_vec();
        let mut stream = Vec::new();
        bodies.iter().for_each(|body| encode_into(&mut stream, body));
        (stream, bodies)
    }

    fn error_of(stream: &[u8], max: usize) -> ControlError {
        decode_all(&[stream], max).1.unwrap_err()
    }

    #[test]
    fn the_example_in_the_protocol_is_encoded() {
        let frame = encode(br#"{"success":true}"#);
        assert_eq!(&frame[..], b"\x10\0\0\0{\"success\":true}\0");
    }

    #[test]
    fn every_split_yields_the_same_frames() {
        let (stream, bodies) = three_frames();
        let whole = (bodies, Ok((false, 0)));
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(decode_all(&pieces, MAX), whole);
            }
        }
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decode_all(&bytes, MAX), whole);
    }

    #[test]
    fn a_whole_frame_is_not_copied() {
        let (stream, _) = three_frames();
        let mut decoder = Decoder::new();
        let Decoded { consumed, body } = decoder.next(&stream, MAX).unwrap();
        assert_eq!(consumed, 7);
        assert_eq!(body.unwrap().as_ptr_range(), stream[4..6].as_ptr_range());
    }

    #[test]
    fn a_length_out_of_bounds_is_refused_before_the_body() {
        for got in [0, -1, i32::MIN, 1025, i32::MAX] {
            let error = error_of(&got.to_le_bytes(), 1024);
            assert_eq!(error, ControlError::Length { got, max: 1024 });
        }
        let mut largest = Vec::new();
        encode_into(&mut largest, &[b'x'; 1024]);
        assert_eq!(decode_all(&[&largest], 1024).0.len(), 1);
    }

    #[test]
    fn a_wrong_trailer_byte_is_refused_at_every_split() {
        let (mut stream, _) = three_frames();
        *stream.last_mut().unwrap() = b'\n';
        for cut in 0..=stream.len() {
            let (bodies, end) = decode_all(&[&stream[..cut], &stream[cut..]], MAX);
            assert_eq!((bodies.len(), end), (2, Err(ControlError::Trailer(b'\n'))));
        }
    }

    #[test]
    fn a_declared_length_allocates_no_memory_in_advance() {
        let mut decoder = Decoder::new();
        let mut input = (MAX as i32).to_le_bytes().to_vec();
        input.extend_from_slice(b"{\"a");
        assert_eq!(decoder.next(&input, MAX), Ok(Decoded { consumed: 7, body: None }));
        assert!(decoder.is_midway());
        assert!(decoder.partial.as_ref().unwrap().bytes.capacity() <= 64);
    }

    #[test]
    fn the_buffer_of_a_large_body_grows_rarely_and_to_its_exact_size() {
        let body = vec![b'x'; 1_000_000];
        let stream = encode(&body);
        let (mut decoder, mut growths, mut capacity) = (Decoder::new(), 0, 0);
        for piece in stream.chunks(100) {
            if decoder.next(piece, MAX).unwrap().body.is_some_and(|got| got == body) {
                growths += 1000; // counts how often the body was returned
            }
            let bytes = &decoder.partial.as_ref().unwrap().bytes;
            growths += usize::from(bytes.capacity() != capacity);
            capacity = bytes.capacity();
            assert!(capacity <= (2 * bytes.len()).max(128));
        }
        assert!((1001..1020).contains(&growths), "{growths}");
        assert_eq!(capacity, body.len() + 1);
        assert_eq!(decoder.next(&[], MAX), Ok(Decoded { consumed: 0, body: None }));
        assert!(decoder.partial.is_none(), "released with the frame");
    }

    #[test]
    fn a_decoder_is_midway_only_inside_a_frame() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.next(b"\x02\0\0", MAX), Ok(Decoded { consumed: 0, body: None }));
        assert!(!decoder.is_midway(), "the caller still holds these three bytes");
        assert_eq!(decoder.next(b"\x02\0\0\0", MAX), Ok(Decoded { consumed: 4, body: None }));
        assert!(decoder.is_midway());
        let body = Some(&b"{}"[..]);
        assert_eq!(decoder.next(b"{}\0\x01", MAX), Ok(Decoded { consumed: 3, body }));
        assert!(!decoder.is_midway());
    }

    #[test]
    fn an_incomplete_frame_above_a_bound_reports_its_length() {
        let mut decoder = Decoder::new();
        assert_eq!(decoder.outgrows(b"\x02\0\0", 0), None);
        assert_eq!(decoder.outgrows(b"\xff\xff\xff\xff{}", 0), None);
        assert_eq!(decoder.outgrows(b"\x02\0\0\0", 0), None);
        assert_eq!(decoder.outgrows(b"\x02\0\0\0{", 0), Some(2));
        assert_eq!(decoder.outgrows(b"\x02\0\0\0{}", 1), Some(2));
        assert_eq!(decoder.outgrows(b"\x02\0\0\0{}", 2), None, "not above the bound");
        assert_eq!(decoder.outgrows(b"\x02\0\0\0{}\0\x05\0\0\0", 0), None, "the frame is complete");
        assert_eq!(decoder.next(b"\x02\0\0\0{", MAX).unwrap().consumed, 5);
        assert_eq!(decoder.outgrows(b"}", 1), Some(2), "one byte read before, one now");
        assert_eq!(decoder.outgrows(b"}", 2), None);
        assert_eq!(decoder.outgrows(b"}\0\0\0\0", 0), None, "the rest of the frame is there");
        decoder.release();
        assert!(decoder.is_midway());
        assert_eq!(decoder.next(b"}\0", MAX).unwrap().body, Some(&b"{}"[..]));
        decoder.release();
        assert!(decoder.partial.is_none());
    }

    #[test]
    fn the_fuzz_target_accepts_any_input() {
        fuzz_frames(b"");
        fuzz_frames(b"\x01\x02\x06\0\0\0{}\0\x03\xff\xff\xff\x09\xff");
        fuzz_frames(b"\xff\x02\0\0\0{}\0\x02\0\0\0{}\n");
    }

    #[test]
    fn an_idle_decoder_is_one_pointer_in_size() {
        assert_eq!(size_of::<Decoder>(), size_of::<usize>());
    }
}
