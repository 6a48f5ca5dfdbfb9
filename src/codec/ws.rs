//! WebSocket (RFC 6455): the handshake key, the frame reader and the frame encoders.
//!
//! Owns only the bytes of an incomplete message. It never replies to a ping or close, never sends,
//! and does not interpret messages. Called by the web listener (server side), and by the clients of
//! the command line and of the load generator.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, PAD};
use sha1::{Digest, Sha1};

mod encode;
mod error;
mod fuzz;
#[cfg(feature = "oracle")]
mod oracle;
#[cfg(test)]
mod tests;

pub use encode::{
    HEADER_BYTES, binary_frame, close_frame, encode_into, encode_masked_into, header, ping_frame,
    pong_frame, text_frame, text_frame_with,
};
pub use error::WsError;
pub use fuzz::fuzz_reader;

/// Maximum payload of a control frame (RFC 6455, 5.5), in bytes.
pub const CONTROL_BYTES: usize = 125;

/// Base64 as RFC 6455 requires it, except that the four unused bits of a key may have any value:
/// some clients make up their key as text.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&ALPHABET, PAD.with_decode_allow_trailing_bits(true));

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455, 4.2.2).
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key);
    hash.update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(hash.finalize())
}

/// Returns whether a `Sec-WebSocket-Key` is the base64 of 16 bytes (RFC 6455, 4.1).
pub fn is_valid_key(key: &str) -> bool {
    let mut nonce = [0; 18];
    key.len() == 24 && BASE64.decode_slice(key, &mut nonce) == Ok(16)
}

/// Our end of the connection. A server requires masked frames, a client unmasked ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We accepted the connection.
    Server,
    /// We dialled.
    Client,
}

/// Frame types (RFC 6455, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation = 0x0,
    /// A text message, or its first fragment.
    Text = 0x1,
    /// A binary message, or its first fragment.
    Binary = 0x2,
    /// The last frame that a side sends.
    Close = 0x8,
    /// Must be answered with a pong.
    Ping = 0x9,
    /// The answer to a ping, or an unsolicited heartbeat.
    Pong = 0xA,
}

impl Opcode {
    /// Returns the opcode with this number; `None` if the number is reserved.
    const fn of(number: u8) -> Option<Opcode> {
        Some(match number {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xA => Opcode::Pong,
            _ => return None,
        })
    }

    /// Returns whether frames of this type cannot be fragmented and may arrive between fragments.
    pub const fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// What the peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A complete text message.
    Text(&'a str),
    /// A complete binary message.
    Binary(&'a [u8]),
    /// A ping: answer with [`pong_frame`] and the same payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// The peer closes, with a code that is valid on the wire or without one.
    Close(Option<(u16, &'a str)>),
}

/// Limits of a [`Reader`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum payload of a message, all fragments together, in bytes.
    pub message_bytes: usize,
    /// Maximum number of frames in a message.
    pub fragments: usize,
}

/// The result of one call of [`Reader::read`].
#[derive(Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// Bytes of the input that were consumed.
    pub consumed: usize,
    /// Frames that began in them: a message may have many, and each has a cost.
    pub frames: usize,
    /// The event; `None` if more bytes are needed.
    pub event: Option<Event<'a>>,
}

/// The incremental frame reader of one connection. One pointer in size; it allocates only while a
/// frame or message is incomplete.
#[derive(Debug, Default)]
pub struct Reader {
    /// `Some` only while a frame or message is incomplete, or if the last call completed one.
    assembly: Option<Box<Assembly>>,
}

impl Reader {
    /// Reads `input` up to the next event. `side` must be the same for the whole stream. Call again
    /// with the unconsumed rest until `event` is `None`, even if the rest is empty (that call frees
    /// the memory of the last message). The final rest is an incomplete frame header of at most 13
    /// bytes, to which more bytes must be appended. Must not be called again after [`Event::Close`]
    /// or an error.
    ///
    /// A single-frame message that lies completely in the input is unmasked in place and returned
    /// as a slice of it. Any other payload is copied as it arrives, so memory grows with the bytes
    /// received, never with a declared length, which is first checked against `bounds`.
    ///
    /// # Errors
    /// [`WsError`]: for a header as soon as it is complete, for text at its first invalid byte,
    /// even within an incomplete frame. How the bytes are split makes no difference.
    pub fn read<'a>(
        &'a mut self,
        side: Side,
        input: &'a mut [u8],
        bounds: &Bounds,
    ) -> Result<Step<'a>, WsError> {
        self.forget_given();
        let (mut consumed, mut frames) = (0, 0);
        loop {
            if let Some(assembly) = &mut self.assembly
                && assembly.open.is_some()
            {
                consumed += assembly.take(&mut input[consumed..])?;
                match assembly.end_frame()? {
                    Ended::Incomplete => return Ok(Step { consumed, frames, event: None }),
                    Ended::Fragment => continue,
                    Ended::Control(opcode) => {
                        let event = self.control_event(opcode)?;
                        return Ok(Step { consumed, frames, event });
                    }
                    Ended::Message => {
                        let event = self.message_event();
                        return Ok(Step { consumed, frames, event });
                    }
                }
            }
            let Some(header) = Header::parse(&input[consumed..], side)? else {
                return Ok(Step { consumed, frames, event: None });
            };
            self.admit(&header, bounds)?;
            frames += 1;
            consumed += header.bytes;
            let is_here = header.payload_bytes <= input.len() - consumed;
            if is_here && header.is_whole() {
                let payload = &mut input[consumed..consumed + header.payload_bytes];
                if let Some(mask) = header.mask {
                    apply_mask(payload, mask);
                }
                consumed += payload.len();
                let event = Some(whole_event(header.opcode, payload)?);
                return Ok(Step { consumed, frames, event });
            }
            self.assembly.get_or_insert_default().begin(&header);
        }
    }

    /// Returns the memory held for incomplete data, or for the last message returned, in bytes.
    pub fn kept_bytes(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| {
            let message = assembly.message.as_ref().map_or(0, |message| message.body.capacity());
            message + assembly.control.capacity()
        })
    }

    /// Returns whether the message returned by the last call is still held.
    pub fn keeps_given(&self) -> bool {
        self.assembly.as_ref().is_some_and(|assembly| assembly.is_given)
    }

    /// Frees the message returned by the last call, as the next call would.
    pub fn forget_given(&mut self) {
        let Some(assembly) = &mut self.assembly else { return };
        if assembly.is_given {
            assembly.is_given = false;
            assembly.message = None;
        }
        if assembly.open.is_none() && assembly.message.is_none() {
            self.assembly = None;
        }
    }

    /// Checks whether a frame may come now: the rules between frames, and the bounds.
    fn admit(&self, header: &Header, bounds: &Bounds) -> Result<(), WsError> {
        if header.opcode.is_control() {
            return Ok(());
        }
        let message = self.assembly.as_ref().and_then(|assembly| assembly.message.as_ref());
        let (bytes, fragments) = match (header.opcode, message) {
            (Opcode::Continuation, None) => return Err(WsError::StrayContinuation),
            (Opcode::Continuation, Some(message)) => (message.body.len(), message.fragments),
            (_, Some(_)) => return Err(WsError::InterruptedMessage),
            (_, None) => (0, 0),
        };
        if header.payload_bytes > bounds.message_bytes.saturating_sub(bytes) {
            return Err(WsError::TooLarge(bounds.message_bytes));
        }
        if fragments >= bounds.fragments {
            return Err(WsError::TooManyFragments(bounds.fragments));
        }
        Ok(())
    }

    fn control_event(&self, opcode: Opcode) -> Result<Option<Event<'_>>, WsError> {
        let Some(assembly) = &self.assembly else { return Ok(None) };
        whole_event(opcode, &assembly.control).map(Some)
    }

    fn message_event(&self) -> Option<Event<'_>> {
        match &self.assembly.as_ref()?.message.as_ref()?.body {
            Body::Text(text) => Some(Event::Text(&text.valid)),
            Body::Binary(bytes) => Some(Event::Binary(bytes)),
        }
    }
}

/// A frame header that satisfies all rules that concern the header alone.
#[derive(Debug)]
struct Header {
    /// Length of the header.
    bytes: usize,
    opcode: Opcode,
    is_final: bool,
    mask: Option<[u8; 4]>,
    payload_bytes: usize,
}

impl Header {
    /// Parses a header; `None` while it is incomplete.
    fn parse(input: &[u8], side: Side) -> Result<Option<Header>, WsError> {
        let [first, second, rest @ ..] = input else { return Ok(None) };
        let code = second & 0x7F;
        let (length, rest) = match code {
            127 => match rest.split_first_chunk() {
                Some((length, rest)) => (u64::from_be_bytes(*length), rest),
                None => return Ok(None),
            },
            126 => match rest.split_first_chunk() {
                Some((length, rest)) => (u16::from_be_bytes(*length).into(), rest),
                None => return Ok(None),
            },
            short => (short.into(), rest),
        };
        let (mask, rest) = match rest.split_first_chunk() {
            _ if second & 0x80 == 0 => (None, rest),
            Some((mask, rest)) => (Some(*mask), rest),
            None => return Ok(None),
        };
        let opcode = Opcode::of(first & 0xF).ok_or(WsError::ReservedOpcode(first & 0xF))?;
        if first & 0x70 != 0 {
            return Err(WsError::ReservedBits(first >> 4 & 7));
        }
        if mask.is_some() != (side == Side::Server) {
            return Err(WsError::Masking);
        }
        let shortest = match code {
            127 => 0x1_0000,
            126 => 126,
            _ => 0,
        };
        if length < shortest {
            return Err(WsError::LongLength);
        }
        if length > i64::MAX as u64 {
            return Err(WsError::HugeLength);
        }
        let is_final = first & 0x80 != 0;
        if opcode.is_control() && !is_final {
            return Err(WsError::FragmentedControl);
        }
        if opcode.is_control() && length > CONTROL_BYTES as u64 {
            return Err(WsError::LongControl(length));
        }
        Ok(Some(Header {
            bytes: input.len() - rest.len(),
            opcode,
            is_final,
            mask,
            // Where `usize` is too small for the length, the clamped value still exceeds any bound.
            payload_bytes: usize::try_from(length).unwrap_or(usize::MAX),
        }))
    }

    /// Returns whether the frame is an event by itself.
    fn is_whole(&self) -> bool {
        self.is_final && self.opcode != Opcode::Continuation
    }
}

/// The state of an incomplete frame or message.
#[derive(Debug, Default)]
struct Assembly {
    /// The frame whose payload is arriving.
    open: Option<OpenFrame>,
    /// The message that is incomplete, or was returned but not freed yet.
    message: Option<Message>,
    /// Payload of the last control frame that arrived in pieces, at most [`CONTROL_BYTES`].
    control: Vec<u8>,
    /// The message is complete: the last call returned it, the next one frees it.
    is_given: bool,
}

#[derive(Debug)]
struct OpenFrame {
    opcode: Opcode,
    is_final: bool,
    /// Rotated so that its first byte applies to the next byte of payload.
    mask: Option<[u8; 4]>,
    missing_bytes: usize,
}

#[derive(Debug)]
struct Message {
    body: Body,
    /// Frames so far, including the open one.
    fragments: usize,
}

#[derive(Debug)]
enum Body {
    Text(Utf8),
    Binary(Vec<u8>),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Body::Text(text) => text.valid.len() + text.partial_bytes,
            Body::Binary(bytes) => bytes.len(),
        }
    }

    fn capacity(&self) -> usize {
        match self {
            Body::Text(text) => text.valid.capacity(),
            Body::Binary(bytes) => bytes.capacity(),
        }
    }
}

/// How a frame ended.
enum Ended {
    /// It has not ended yet.
    Incomplete,
    /// As a fragment of a message that continues.
    Fragment,
    /// As a complete control frame.
    Control(Opcode),
    /// As the last frame of a message.
    Message,
}

impl Assembly {
    /// Begins a frame that [`Reader::admit`] accepted.
    fn begin(&mut self, header: &Header) {
        debug_assert!(self.open.is_none() && !self.is_given);
        match header.opcode {
            Opcode::Text => self.begin_message(Body::Text(Utf8::default())),
            Opcode::Binary => self.begin_message(Body::Binary(Vec::new())),
            Opcode::Continuation => {
                if let Some(message) = &mut self.message {
                    message.fragments += 1;
                }
            }
            Opcode::Close | Opcode::Ping | Opcode::Pong => self.control.clear(),
        }
        self.open = Some(OpenFrame {
            opcode: header.opcode,
            is_final: header.is_final,
            mask: header.mask,
            missing_bytes: header.payload_bytes,
        });
    }

    fn begin_message(&mut self, body: Body) {
        debug_assert!(self.message.is_none());
        self.message = Some(Message { body, fragments: 1 });
    }

    /// Consumes what has arrived of the open frame's payload; returns the number of bytes.
    fn take(&mut self, input: &mut [u8]) -> Result<usize, WsError> {
        let Some(open) = &mut self.open else { return Ok(0) };
        let taken = open.missing_bytes.min(input.len());
        let payload = &mut input[..taken];
        if let Some(mask) = &mut open.mask {
            apply_mask(payload, *mask);
            mask.rotate_left(taken % 4);
        }
        open.missing_bytes -= taken;
        match &mut self.message {
            _ if open.opcode.is_control() => self.control.extend_from_slice(payload),
            Some(Message { body: Body::Text(text), .. }) => text.push(payload)?,
            Some(Message { body: Body::Binary(bytes), .. }) => bytes.extend_from_slice(payload),
            None => debug_assert!(false, "a data frame is part of a message"),
        }
        Ok(taken)
    }

    /// Ends the open frame if its whole payload has been consumed.
    fn end_frame(&mut self) -> Result<Ended, WsError> {
        let Some(open) = self.open.take_if(|open| open.missing_bytes == 0) else {
            return Ok(Ended::Incomplete);
        };
        if open.opcode.is_control() {
            return Ok(Ended::Control(open.opcode));
        }
        if !open.is_final {
            return Ok(Ended::Fragment);
        }
        if let Some(Message { body: Body::Text(text), .. }) = &self.message
            && text.partial_bytes > 0
        {
            return Err(WsError::Utf8);
        }
        self.is_given = true;
        Ok(Ended::Message)
    }
}

/// Text that arrives in pieces; each byte is validated once, on arrival.
#[derive(Debug, Default)]
struct Utf8 {
    valid: String,
    /// The first bytes of an incomplete character.
    partial: [u8; 4],
    /// How many of them there are, at most 3.
    partial_bytes: usize,
}

impl Utf8 {
    fn push(&mut self, mut bytes: &[u8]) -> Result<(), WsError> {
        while self.partial_bytes > 0
            && let Some((first, rest)) = bytes.split_first()
        {
            self.partial[self.partial_bytes] = *first;
            self.partial_bytes += 1;
            bytes = rest;
            match std::str::from_utf8(&self.partial[..self.partial_bytes]) {
                Ok(character) => {
                    self.valid.push_str(character);
                    self.partial_bytes = 0;
                }
                Err(error) if error.error_len().is_some() => return Err(WsError::Utf8),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.valid.push_str(text),
            // Only a character cut by the end of the piece can still become valid.
            Err(error) if error.error_len().is_none() => {
                let (valid, partial) = bytes.split_at(error.valid_up_to());
                self.push(valid)?;
                self.partial[..partial.len()].copy_from_slice(partial);
                self.partial_bytes = partial.len();
            }
            Err(_) => return Err(WsError::Utf8),
        }
        Ok(())
    }
}

/// Returns the event of a frame that is one by itself, its payload already unmasked.
fn whole_event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, WsError> {
    match opcode {
        Opcode::Text => std::str::from_utf8(payload).map(Event::Text).map_err(|_| WsError::Utf8),
        Opcode::Binary | Opcode::Continuation => Ok(Event::Binary(payload)),
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        Opcode::Close => parse_close(payload).map(Event::Close),
    }
}

/// Returns whether a code may appear in a close frame from either side (RFC 6455, 7.4).
pub const fn is_close_code(code: u16) -> bool {
    // 1012 to 1014 were registered with IANA after the RFC. 1004 is undefined; 1005, 1006 and 1015
    // are never on the wire.
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Parses the code and reason of a close frame (RFC 6455, 5.5.1 and 7.4).
fn parse_close(payload: &[u8]) -> Result<Option<(u16, &str)>, WsError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(WsError::HalfCloseCode) };
    };
    let code = u16::from_be_bytes(*code);
    if !is_close_code(code) {
        return Err(WsError::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| WsError::Utf8)?;
    Ok(Some((code, reason)))
}

/// Masks or unmasks bytes in place (RFC 6455, 5.3), eight at a time. The mask starts at the first
/// byte; for later pieces of a payload, rotate it by the number of bytes before.
pub fn apply_mask(bytes: &mut [u8], mask: [u8; 4]) {
    let [a, b, c, d] = mask;
    let word = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for eight in words {
        *eight = (u64::from_ne_bytes(*eight) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}
