//! Starts on a store that is damaged. A panic of the library that reads it is caught and is damage
//! like any other, so it must not end the fuzzer, as it would by libFuzzer's own hook; one of ours
//! still does.
#![no_main]

libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| ())),
    |data: &[u8]| fws::sim::fuzz_store_recovery(data)
);
