//! Browsers against the whole switch.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::sim::fuzz_browser(data));
