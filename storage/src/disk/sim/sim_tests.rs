use super::*;

fn path(text: &str) -> &Path {
    Path::new(text)
}

#[test]
fn sim_disk_forgets_what_was_not_synced() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/d")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    let file = disk.create(path("/d/a")).unwrap();
    file.write_at(0, b"one").unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/d")).unwrap();
    file.write_at(3, b"two").unwrap();
    disk.create(path("/d/b")).unwrap().sync_all().unwrap();

    disk.crash(Loss::Nothing);
    assert_eq!(disk.content(path("/d/a")).unwrap(), b"onetwo");
    disk.crash(Loss::Unsynced);
    assert_eq!(disk.content(path("/d/a")).unwrap(), b"one");
    assert_eq!(disk.files(), [path("/d/a")]);
    assert!(file.read_at(0, &mut [0]).is_err(), "a handle from before a crash");
}

#[test]
fn sim_disk_undoes_renames_and_removals_that_were_not_synced() {
    let disk = SimDisk::new();
    for name in ["/a", "/b"] {
        let file = disk.create(path(name)).unwrap();
        file.write_at(0, name.as_bytes()).unwrap();
        file.sync_all().unwrap();
    }
    disk.sync_dir(path("/")).unwrap();
    disk.rename(path("/a"), path("/c")).unwrap();
    disk.remove(path("/b")).unwrap();
    assert_eq!(disk.files(), [path("/c")]);
    disk.crash(Loss::Unsynced);
    assert_eq!(disk.files(), [path("/a"), path("/b")]);
    assert_eq!(disk.content(path("/b")).unwrap(), b"/b");
}

#[test]
fn sim_disk_tears_the_last_write() {
    let disk = SimDisk::new();
    let file = disk.create(path("/a")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    file.write_at(0, b"first ").unwrap();
    file.write_at(6, b"second").unwrap();
    disk.crash(Loss::TornLastWrite { kept_bytes: 3 });
    assert_eq!(disk.content(path("/a")).unwrap(), b"first sec");
}

#[test]
fn sim_disk_forgets_what_a_failed_sync_was_to_write() {
    for is_written_again in [false, true] {
        let disk = SimDisk::new();
        let file = disk.create(path("/a")).unwrap();
        file.write_at(0, b"one").unwrap();
        disk.fail_path(Operation::SyncFile, "a", io::ErrorKind::Other, 1);
        disk.fail_path(Operation::SyncDir, "/", io::ErrorKind::Other, 1);
        file.sync_data().unwrap_err();
        disk.sync_dir(path("/")).unwrap_err();
        if is_written_again {
            file.write_at(0, b"two").unwrap();
            disk.rename(path("/a"), path("/b")).unwrap();
        }
        // All succeed now; without the new writes, on nothing.
        file.sync_data().unwrap();
        disk.sync_dir(path("/")).unwrap();
        disk.sync_all(path("/")).unwrap();
        assert_eq!(disk.files().len(), 1, "readers see it");
        disk.crash(Loss::Unsynced);
        if is_written_again {
            assert_eq!(disk.content(path("/b")).unwrap(), b"two");
        } else {
            assert!(disk.files().is_empty());
        }
    }
}

#[test]
fn sim_disk_lets_a_process_die_at_an_operation() {
    let disk = SimDisk::new();
    let file = disk.create(path("/a")).unwrap();
    disk.kill_at(Operation::SyncFile, "a");
    file.write_at(0, b"one").unwrap();
    file.sync_data().unwrap_err();
    disk.sync_dir(path("/")).unwrap_err();
    disk.crash(Loss::Nothing);
    assert_eq!(disk.content(path("/a")).unwrap(), b"one", "the kernel lives on");
    disk.sync_all(path("/")).unwrap();
    disk.crash(Loss::Unsynced);
    assert_eq!(disk.content(path("/a")).unwrap(), b"one");
}

#[test]
fn sim_disk_fails_lies_fills_and_locks_on_request() {
    let disk = SimDisk::new();
    disk.fail_path(Operation::Create, "bad", io::ErrorKind::PermissionDenied, 1);
    let error = disk.create(path("/bad")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    let file = disk.create(path("/bad")).unwrap();

    disk.set_capacity(Some(4));
    file.write_at(0, b"1234").unwrap();
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 0);
    assert_eq!(file.write_at(4, b"5").unwrap_err().kind(), io::ErrorKind::StorageFull);

    disk.ignore_sync(0);
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    let lock = Disk::lock(&disk, path("/LOCK")).unwrap();
    let taken = Disk::lock(&disk, path("/LOCK")).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    Disk::lock(&disk, path("/LOCK")).unwrap();

    disk.fail_from(disk.operations() + 1);
    assert!(disk.sync_dir(path("/")).is_err());
    disk.crash(Loss::Unsynced);
    assert_eq!(disk.content(path("/bad")).unwrap(), b"", "the sync was a lie");
    disk.flip_bit(path("/bad"), 0, 0).unwrap_err();
    disk.overwrite(path("/bad"), b"\x01").unwrap();
    disk.flip_bit(path("/bad"), 0, 1).unwrap();
    assert_eq!(disk.fork().content(path("/bad")).unwrap(), b"\x03");
}
