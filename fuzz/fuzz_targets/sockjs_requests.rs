//! SockJS paths with bodies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| fws::web::fuzz_sockjs(data));
