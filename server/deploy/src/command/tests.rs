use tokio::io::AsyncReadExt;

use super::*;

fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

#[tokio::test]
async fn lines_come_from_both_streams_and_the_exit_code_is_told() {
    let script = "import sys\nprint('a\\rb')\nprint('e', file=sys.stderr)\nsys.exit(3)";
    let out = Command::new("python3").args(["-c", script]).capture(&CancellationToken::new(), 1000).await;
    let out = out.unwrap();
    assert_eq!((out.finished.code, out.stdout.as_str(), out.stderr.as_str()), (Some(3), "a\nb", "e"));
}

#[tokio::test]
async fn the_environment_is_cleared() {
    let out =
        Command::new("env").env("BERTH_PROBE", "1").capture(&CancellationToken::new(), 10_000).await.unwrap();
    assert!(out.stdout.contains("BERTH_PROBE=1"));
    assert!(!out.stdout.contains("CARGO_"), "cargo's variables leaked: {}", out.stdout);
}

#[tokio::test]
async fn a_missing_program_is_told_apart_from_a_missing_directory() {
    let cancel = CancellationToken::new();
    let missing = Command::new("no-such-program-at-all").capture(&cancel, 10).await.unwrap_err();
    assert!(matches!(missing, CommandError::NotInstalled { .. }), "{missing}");
    let no_dir = Command::new("env").dir("/no/such/dir").capture(&cancel, 10).await.unwrap_err();
    assert!(matches!(no_dir, CommandError::Io { .. }), "{no_dir}");
}

/// A program that starts another one and prints its pid, then both sleep.
const PARENT: &str =
    "import subprocess,time\np=subprocess.Popen(['sleep','60'])\nprint(p.pid,flush=True)\ntime.sleep(60)";

async fn grandchild_dies(run: impl AsyncFnOnce(&Command, &mut (dyn FnMut(OutputLine) + Send))) {
    let mut pid = 0;
    let mut sink = |line: OutputLine| {
        if let OutputLine::Stdout(text) = line {
            pid = text.parse().unwrap();
        }
    };
    let command = Command::new("python3").args(["-c", PARENT]).timeout(Duration::from_secs(3));
    run(&command, &mut sink).await;
    assert!(pid > 0, "the program did not start");
    for _ in 0..50 {
        if !alive(pid) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process {pid} outlived its group");
}

#[tokio::test]
async fn a_timeout_kills_the_whole_group() {
    grandchild_dies(async |command, sink| {
        let error = command.run(&CancellationToken::new(), sink).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn cancelling_and_dropping_kill_the_whole_group() {
    grandchild_dies(async |command, sink| {
        let cancel = CancellationToken::new();
        let later = cancel.clone();
        let timer = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1000)).await;
            later.cancel();
        });
        let error = command.run(&cancel, sink).await.unwrap_err();
        assert!(matches!(error, CommandError::Cancelled { .. }), "{error}");
        timer.await.unwrap();
    })
    .await;
    grandchild_dies(async |command, sink| {
        let cancel = CancellationToken::new();
        let dropped = tokio::time::timeout(Duration::from_millis(1000), command.run(&cancel, sink)).await;
        assert!(dropped.is_err());
    })
    .await;
}

#[tokio::test]
async fn input_is_handed_over_and_pipes_carry_bytes() {
    let cancel = CancellationToken::new();
    let out = Command::new("cat").input("a\nb\n").capture(&cancel, 100).await.unwrap();
    assert_eq!(out.stdout, "a\nb");
    let mut cat = Command::new("cat").pipe().unwrap();
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let (mut to, from) = (cat.stdin.take().unwrap(), cat.stdout.as_mut().unwrap());
    let mut got = Vec::new();
    let write = async {
        to.write_all(&bytes).await.unwrap();
        drop(to);
    };
    let (_, read) = tokio::join!(write, from.read_to_end(&mut got));
    read.unwrap();
    assert!(got == bytes);
    let (finished, said) = cat.finish(&cancel).await.unwrap();
    assert!(finished.success() && said.is_empty());
    let sleeping = Command::new("sleep").arg("60").timeout(Duration::from_millis(50)).pipe().unwrap();
    assert!(matches!(sleeping.finish(&cancel).await, Err(CommandError::TimedOut { .. })));
}
