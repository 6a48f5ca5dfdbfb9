//! Whole HTTP connections, split anywhere.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::web::fuzz_connection(data));
