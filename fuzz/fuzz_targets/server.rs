//! The whole server with all its listeners, in memory or on a store.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::sim::fuzz_server(data));
