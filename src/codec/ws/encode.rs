//! Frame encoders. Frames are never fragmented, and masked only on the client side.

use super::{CONTROL_BYTES, Opcode, apply_mask, is_close_code};
use crate::frame::Frame;

/// Maximum header length of an unmasked frame, in bytes.
pub const HEADER_BYTES: usize = 10;

/// Returns the header of an unmasked frame with this payload size: a buffer, and the number of
/// bytes used in it.
pub fn header(opcode: Opcode, payload_bytes: usize) -> ([u8; HEADER_BYTES], usize) {
    let mut header = [0; HEADER_BYTES];
    header[0] = 0x80 | opcode as u8;
    match payload_bytes {
        0..126 => {
            header[1] = payload_bytes as u8;
            (header, 2)
        }
        126..0x1_0000 => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(payload_bytes as u16).to_be_bytes());
            (header, 4)
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            (header, HEADER_BYTES)
        }
    }
}

/// Appends an unmasked frame, as a server sends it.
pub fn encode_into(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let (header, header_bytes) = header(opcode, payload.len());
    out.reserve(header_bytes + payload.len());
    out.extend_from_slice(&header[..header_bytes]);
    out.extend_from_slice(payload);
}

/// Appends a masked frame, as a client sends it. The mask must be fresh and from the system's
/// random source (RFC 6455, 10.3).
pub fn encode_masked_into(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8], mask: [u8; 4]) {
    let (mut header, header_bytes) = header(opcode, payload.len());
    header[1] |= 0x80;
    out.reserve(header_bytes + mask.len() + payload.len());
    out.extend_from_slice(&header[..header_bytes]);
    out.extend_from_slice(&mask);
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], mask);
}

/// Encodes a text message, which must be UTF-8. For frequent ones, see [`text_frame_with`].
pub fn text_frame(payload: &[u8]) -> Frame {
    let mut out = Vec::new();
    encode_into(&mut out, Opcode::Text, payload);
    Frame::from(out)
}

/// Encodes a binary message.
pub fn binary_frame(payload: &[u8]) -> Frame {
    let mut out = Vec::new();
    encode_into(&mut out, Opcode::Binary, payload);
    Frame::from(out)
}

/// Encodes a text message that `write` appends to `scratch`, which is cleared first. The header is
/// put in front of it once its length is known, so the frame is the only allocation.
pub fn text_frame_with(scratch: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) -> Frame {
    scratch.clear();
    scratch.resize(HEADER_BYTES, 0);
    write(scratch);
    let (header, header_bytes) = header(Opcode::Text, scratch.len() - HEADER_BYTES);
    let start = HEADER_BYTES - header_bytes;
    scratch[start..HEADER_BYTES].copy_from_slice(&header[..header_bytes]);
    Frame::from(&scratch[start..])
}

/// Encodes a close frame. A reason over 123 bytes is cut at a character boundary. The code must be
/// valid on the wire ([`is_close_code`]).
pub fn close_frame(code: u16, reason: &str) -> Frame {
    debug_assert!(is_close_code(code), "{code} is never on the wire");
    let mut end = reason.len().min(CONTROL_BYTES - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = [0; CONTROL_BYTES];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + end].copy_from_slice(&reason.as_bytes()[..end]);
    control_frame(Opcode::Close, &payload[..2 + end])
}

/// Encodes a ping. The payload is truncated to [`CONTROL_BYTES`].
pub fn ping_frame(payload: &[u8]) -> Frame {
    control_frame(Opcode::Ping, payload)
}

/// Encodes the answer to a ping, with its payload, truncated to [`CONTROL_BYTES`].
pub fn pong_frame(payload: &[u8]) -> Frame {
    control_frame(Opcode::Pong, payload)
}

fn control_frame(opcode: Opcode, payload: &[u8]) -> Frame {
    let payload = &payload[..payload.len().min(CONTROL_BYTES)];
    let mut out = [0; 2 + CONTROL_BYTES];
    let (header, header_bytes) = header(opcode, payload.len());
    let end = header_bytes + payload.len();
    out[..header_bytes].copy_from_slice(&header[..header_bytes]);
    out[header_bytes..end].copy_from_slice(payload);
    Frame::from(&out[..end])
}
