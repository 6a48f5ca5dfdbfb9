//! HTTP request bodies, with a length and chunked.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::http::fuzz_body(data));
