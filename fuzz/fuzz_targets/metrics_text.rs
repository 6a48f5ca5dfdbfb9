//! The metrics text, as `fws stat` parses it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::codec::prometheus::fuzz_text(data));
