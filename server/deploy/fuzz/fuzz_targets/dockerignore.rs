//! Ignore rules: any text is parsed, any path is judged, and what is pruned is left out.
#![no_main]

use berth_deploy::source::ignore::DockerIgnore;

libfuzzer_sys::fuzz_target!(|input: (&str, &str)| {
    let rules = DockerIgnore::parse(input.0);
    if rules.prunes(input.1) {
        assert!(rules.excludes(&format!("{}/x", input.1)));
    }
});
