//! Control frames, split anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::control::fuzz_frames(data));
