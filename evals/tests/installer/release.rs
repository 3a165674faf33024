//! The release step as a program, and an install of what it made.

use std::fs;

use berth_evals::program::program;

use crate::world::{Outcome, World, checkout, needs, stand_in};

fn release(world: &World, out: &str) -> Outcome {
    let source = world.path().join("source");
    fs::create_dir_all(&source).expect("folder");
    for name in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "deploy.sh"] {
        fs::copy(checkout().join(name), source.join(name)).expect("file of the checkout");
    }
    let binary = world.path().join("built");
    fs::write(&binary, stand_in("1.2.3", "good")).expect("program");
    fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    let mut command = program(env!("CARGO_BIN_EXE_berth-release"));
    command.current_dir(world.path()).args(["--binary", "built", "--source", "source", "--out", out]);
    Outcome::new(command.env_remove("SOURCE_DATE_EPOCH").output().expect("berth-release"))
}

#[test]
fn what_the_release_step_makes_can_be_installed() {
    if !needs("curl") {
        return;
    }
    let world = World::new();
    let made = release(&world, "releases");
    assert!(made.ok, "{made:#?}");
    let installed = world.install(&[]);
    assert_eq!(installed.line()["version"], "1.2.3", "{installed:#?}");
    let share = world.prefix().join("usr/local/share/berth");
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md", "completions/berth.bash", "completions/_berth"]
    {
        assert!(share.join(file).is_file(), "{file}");
    }
}

#[test]
fn a_release_made_twice_is_the_same_byte_for_byte() {
    let world = World::new();
    assert!(release(&world, "one").ok && release(&world, "two").ok);
    let name = format!("berth-1.2.3-{}-linux.tar.gz", std::env::consts::ARCH);
    let read = |out: &str, name: &str| fs::read(world.path().join(out).join(name)).expect("file");
    assert_eq!(read("one", &name), read("two", &name));
    assert_eq!(read("one", "latest.json"), read("two", "latest.json"));
    assert_eq!(read("one", &format!("{name}.sha256")), read("two", &format!("{name}.sha256")));
}
