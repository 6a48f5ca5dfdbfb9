//! WebSocket frames, cut anywhere, against tungstenite.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::ws::fuzz_reader(data));
