//! Tokens, valid and forged.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::jwt::fuzz_token(data));
