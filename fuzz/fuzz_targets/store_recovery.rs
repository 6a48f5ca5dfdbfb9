//! Starts on a damaged store. A panic of the library that reads it is caught and treated as damage,
//! so libFuzzer's own hook must not abort on it; a panic of ours still ends the fuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| ())),
    |data: &[u8]| fws::sim::fuzz_store_recovery(data)
);
