//! Bodies of HTTP requests, by length and in chunks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::http::fuzz_body(data));
