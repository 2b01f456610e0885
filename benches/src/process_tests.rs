use super::*;

fn shell(script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]);
    command
}

#[test]
fn process_time_of_a_command_is_counted() {
    let finished =
        run(&mut shell("i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo done")).unwrap();
    assert_eq!(finished.stdout, b"done\n");
    assert!(finished.cpu >= Duration::from_millis(20), "{:?}", finished.cpu);
    assert!(finished.wall >= Duration::from_millis(20), "{:?}", finished.wall);
}

#[test]
fn process_that_fails_is_an_error_with_its_last_words() {
    let error = run(&mut shell("echo the reason >&2; exit 3")).unwrap_err().to_string();
    assert!(error.contains("the reason"), "{error}");
    assert!(error.contains("exit status: 3"), "{error}");
}

#[test]
fn process_server_is_watched_measured_and_gone_after_the_drop() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut server = Server::start("cat", &mut shell("exec cat"), &log).unwrap();
    server.require_alive().unwrap();
    // Its libraries are loaded a moment after its start.
    until("some memory", Duration::from_secs(10), || {
        Ok((server.peak_resident_bytes()? > 100 * 1024).then_some(()))
    })
    .unwrap();
    assert!(server.cpu().unwrap() < Duration::from_secs(5));
    let proc = PathBuf::from(format!("/proc/{}", server.child.id()));
    assert!(proc.exists());
    drop(server);
    assert!(!proc.exists());

    let mut server = Server::start("sh", &mut shell("echo last words; exit 1"), &log).unwrap();
    let error = until("its end", Duration::from_secs(10), || Ok(server.require_alive().err()));
    let error = error.unwrap().to_string();
    assert!(error.contains("last words"), "{error}");

    Server::start("cat", &mut shell("exec cat"), &log).unwrap().stop().unwrap();
}

#[test]
fn process_attempt_tells_how_it_ended() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let mut attempt = Attempt::start(&mut shell("exit 0"), &log).unwrap();
    assert!(until("the end", Duration::from_secs(10), || attempt.ended()).unwrap());
    let mut attempt = Attempt::start(&mut shell("echo refused; exit 1"), &log).unwrap();
    assert!(!until("the end", Duration::from_secs(10), || attempt.ended()).unwrap());
    assert_eq!(end_of(&log), "refused");
}
