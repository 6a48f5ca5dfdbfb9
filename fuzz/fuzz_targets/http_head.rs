//! HTTP request heads.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::http::fuzz_head(data));
