//! Protocol errors of a peer, and their close codes.

use std::fmt;

use crate::reason::CloseReason;

/// Why a WebSocket connection must be failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WsError {
    /// Reserved bits are set but no extension was negotiated: the bits, RSV1 as 4.
    ReservedBits(u8),
    /// A frame type that RFC 6455 does not define.
    ReservedOpcode(u8),
    /// A length that is not in its shortest form.
    LongLength,
    /// A length of 2^63 or more.
    HugeLength,
    /// An unmasked frame from a client, or a masked one from a server.
    Masking,
    /// A fragmented control frame.
    FragmentedControl,
    /// A control frame of this length, more than [`super::CONTROL_BYTES`].
    LongControl(u64),
    /// A continuation frame without a message to continue.
    StrayContinuation,
    /// A new message inside an incomplete one.
    InterruptedMessage,
    /// A close frame of one byte: half a code.
    HalfCloseCode,
    /// A close code that is not valid on the wire.
    CloseCode(u16),
    /// Text or a close reason that is not UTF-8.
    Utf8,
    /// A message of more than this many bytes.
    TooLarge(usize),
    /// A message of more than this many frames.
    TooManyFragments(usize),
}

impl WsError {
    /// Returns the close code to fail the connection with (RFC 6455, 7.4.1).
    ///
    /// Too many fragments is 1009, like too many bytes: both mean "send smaller messages", and the
    /// alternative, 1008, would hide that behind a "policy".
    pub const fn close_code(&self) -> u16 {
        match self {
            WsError::Utf8 => 1007,
            WsError::TooLarge(_) | WsError::TooManyFragments(_) => 1009,
            _ => 1002,
        }
    }

    /// Returns the close reason: the original server's, where it has one that is as informative as
    /// ours.
    pub const fn close_text(&self) -> &'static str {
        match self {
            WsError::ReservedBits(bits) => reserved_bits_text(*bits),
            WsError::ReservedOpcode(opcode) => reserved_opcode_text(*opcode),
            WsError::LongControl(126) => "Received control frame having too long payload: 126",
            WsError::LongControl(_) => "Received control frame having too long payload",
            WsError::StrayContinuation => "Received unexpected continuation frame",
            WsError::Masking => "Received unmasked frame but masking is required",
            WsError::Utf8 => "Could not decode a text frame as UTF-8",
            WsError::TooLarge(_) | WsError::TooManyFragments(_) => "message too large",
            _ => "protocol error",
        }
    }
}

const fn reserved_bits_text(bits: u8) -> &'static str {
    macro_rules! text {
        ($first:literal, $second:literal, $third:literal) => {
            concat!(
                "One or more reserved bits are on: reserved1 = ",
                $first,
                ", reserved2 = ",
                $second,
                ", reserved3 = ",
                $third
            )
        };
    }
    match bits {
        4 => text!(1, 0, 0),
        2 => text!(0, 1, 0),
        1 => text!(0, 0, 1),
        6 => text!(1, 1, 0),
        5 => text!(1, 0, 1),
        3 => text!(0, 1, 1),
        _ => text!(1, 1, 1),
    }
}

const fn reserved_opcode_text(opcode: u8) -> &'static str {
    macro_rules! texts {
        ($($opcode:literal)*) => {
            match opcode {
                $($opcode => concat!("Unrecognized frame opcode: ", $opcode),)*
                _ => "Unrecognized frame opcode",
            }
        };
    }
    texts!(3 4 5 6 7 11 12 13 14 15)
}

impl fmt::Display for WsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WsError::ReservedBits(_) => f.write_str("reserved bits set"),
            WsError::ReservedOpcode(_) => f.write_str("unknown frame type"),
            WsError::LongLength => f.write_str("length not in its shortest form"),
            WsError::HugeLength => f.write_str("length with its top bit set"),
            WsError::Masking => f.write_str("wrong masking"),
            WsError::FragmentedControl => f.write_str("fragmented control frame"),
            WsError::LongControl(_) => f.write_str("control frame over 125 bytes"),
            WsError::StrayContinuation => f.write_str("continuation of nothing"),
            WsError::InterruptedMessage => f.write_str("message inside a message"),
            WsError::HalfCloseCode => f.write_str("close frame of one byte"),
            WsError::CloseCode(code) => write!(f, "invalid close code {code}"),
            WsError::Utf8 => f.write_str("invalid UTF-8"),
            WsError::TooLarge(bytes) => write!(f, "message over {bytes} bytes"),
            WsError::TooManyFragments(count) => write!(f, "message of over {count} frames"),
        }
    }
}

impl std::error::Error for WsError {}

impl From<WsError> for CloseReason {
    fn from(error: WsError) -> CloseReason {
        match error.close_code() {
            1007 => CloseReason::WsUtf8,
            1009 => CloseReason::WsTooLarge,
            _ => CloseReason::WsProtocol,
        }
    }
}
