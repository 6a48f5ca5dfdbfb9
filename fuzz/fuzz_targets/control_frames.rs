//! Frames of the control port, cut anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::control::fuzz_frames(data));
