#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| heirloom::fuzzing::stream(data));
