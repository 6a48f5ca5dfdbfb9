//! SockJS framing, checked against serde_json.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::sockjs::fuzz_messages(data));
