//! WebSocket frames, split anywhere, checked against tungstenite.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::ws::fuzz_reader(data));
