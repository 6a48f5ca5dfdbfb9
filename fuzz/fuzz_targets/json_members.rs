//! Members of JSON objects, checked against a parser that builds trees.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::json::fuzz_members(data));
