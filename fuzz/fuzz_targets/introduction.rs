//! PROXY protocol headers at the start of a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::proxy::fuzz_introduction(data));
