//! What is read: whole files, anywhere in them, by many at a time, and while they change.

use super::{Case, errno};
use crate::common::command::{soon, within};
use crate::common::mount::Mount;
use crate::common::{tree, wait_until};
use nix::errno::Errno;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn large_file(case: Case) {
    let server = case.server();
    let large = tree::large();
    let origin = File::open(large.link_into(&server.root)).expect("open the original");
    let mount = case.mount(&server, "");
    let path = mount.path("large");
    let digest =
        within(Duration::from_secs(600), move || tree::digest(&path)).expect("read the large file");
    assert_eq!(digest, large.digest);

    // In a mount that has none of it in memory: 200 reads anywhere, and across the end.
    let mount = Mount::at(mount.unmount(), &server, &case.with_tls(""));
    let path = mount.path("large");
    let length = large.length;
    within(Duration::from_secs(300), move || {
        let file = File::open(path).expect("open the large file");
        let mut state = 42_u64;
        for _ in 0..200 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let offset = (state >> 16) % length;
            let wanted = 1 + (state >> 8) % 70_000;
            assert_same(&file, &origin, offset, wanted as usize);
        }
        assert_same(&file, &origin, length - 10, 100);
        assert_same(&file, &origin, length, 100);
        assert_same(&file, &origin, length + (1 << 40), 100);
    });
}

/// Both files give the same bytes there, and as many.
fn assert_same(file: &File, origin: &File, offset: u64, length: usize) {
    let read = |file: &File| {
        let mut buffer = vec![0; length];
        let mut done = 0;
        while done < length {
            match file
                .read_at(&mut buffer[done..], offset + done as u64)
                .expect("read at an offset")
            {
                0 => break,
                count => done += count,
            }
        }
        buffer.truncate(done);
        buffer
    };
    let (got, expected) = (read(file), read(origin));
    assert_eq!(got.len(), expected.len(), "{length} bytes at {offset}");
    assert!(got == expected, "wrong bytes among {length} at {offset}");
}

pub fn beyond_four_gibibytes(case: Case) {
    let server = case.server();
    let length = (5 << 30) + 12_345;
    tree::sparse(&server.root.join("sparse"), length);
    let origin = File::open(server.root.join("sparse")).expect("open the original");
    let mount = case.mount(&server, "");
    let path = mount.path("sparse");
    soon(move || {
        assert_eq!(path.metadata().expect("stat").len(), length);
        let file = File::open(path).expect("open");
        assert_same(&file, &origin, length - (1 << 20), (1 << 20) + 1);
        assert_same(&file, &origin, (4 << 30) - 5, 10);
        assert_same(&file, &origin, length - 1, 1);
        assert_same(&file, &origin, length, 1);
    });
}

pub fn small_and_empty_files(case: Case) {
    let server = case.server();
    // Around the sizes of pages, of TLS records and of the kernel's requests.
    let sizes = [
        0, 1, 4095, 4096, 4097, 16_383, 16_384, 16_385, 131_071, 131_072, 131_073, 1_048_577,
    ];
    for size in sizes {
        tree::fill(&server.root.join(size.to_string()), size, size);
    }
    let mount = case.mount(&server, "");
    for size in sizes {
        let path = mount.path(size.to_string());
        let content = soon(move || fs::read(path)).expect("read");
        assert!(
            content == tree::bytes(size, size as usize),
            "the file of {size} bytes"
        );
    }
}

pub fn eight_readers(case: Case) {
    let server = case.server();
    let length = 6 << 20;
    for reader in 0..8 {
        tree::fill(&server.root.join(format!("file{reader}")), reader, length);
    }
    tree::put(&server.root.join("other/file"), b"", Duration::ZERO);
    let mount = case.mount(&server, "max_sessions=4");
    let dir = mount.dir.clone();
    soon(move || {
        std::thread::scope(|scope| {
            for reader in 0..8 {
                let path = dir.join(format!("file{reader}"));
                scope.spawn(move || {
                    let mut file = File::open(path).expect("open");
                    let expected = tree::bytes(reader, length as usize);
                    // All eight are in the middle of their files together.
                    for chunk in expected.chunks(64 << 10) {
                        let mut got = vec![0; chunk.len()];
                        file.read_exact(&mut got).expect("read");
                        assert!(got == chunk, "reader {reader}");
                    }
                });
            }
            // Metadata is answered meanwhile.
            assert_eq!(fs::read_dir(dir.join("other")).expect("list").count(), 1);
        });
    });
}

pub fn readers_of_one_file(case: Case) {
    let server = case.server();
    let length = 24 << 20;
    tree::fill(&server.root.join("file"), 7, length);
    let mount = case.mount(&server, "");
    let path = mount.path("file");
    let expected = tree::bytes(7, length as usize);
    soon(move || {
        std::thread::scope(|scope| {
            for reader in 0..4 {
                let (path, expected) = (&path, &expected);
                scope.spawn(move || {
                    let file = File::open(path).expect("open");
                    let from = reader * (5 << 20);
                    let mut got = vec![0; expected.len() - from];
                    file.read_exact_at(&mut got, from as u64).expect("read");
                    assert!(got == expected[from..], "reader {reader}");
                });
            }
        });
    });
}

pub fn appended_data(case: Case) {
    let server = case.server();
    let log = server.root.join("log");
    tree::put(&log, b"first\n", Duration::from_secs(60));
    let mount = case.mount(&server, "attr_timeout=1,dir_timeout=1");
    let output = mount.place().beside("tail");
    let sink = File::create(&output).expect("make a file");
    let mut tail = Command::new("tail");
    tail.args(["-n", "+1", "-s", "0.2", "-f"])
        .arg(mount.path("log"))
        .stdout(sink)
        .stderr(Stdio::null());
    let mut tail = tail.spawn().expect("start tail");
    let shows = |text: &str| {
        wait_until(Duration::from_secs(20), || {
            fs::read_to_string(&output).is_ok_and(|shown| shown == text)
        })
    };
    let first = shows("first\n");
    let append = |text: &str| {
        let mut file = File::options()
            .append(true)
            .open(&log)
            .expect("open the server's file");
        file.write_all(text.as_bytes()).expect("append");
    };
    append("second\n");
    let second = shows("first\nsecond\n");
    append("third\n");
    let third = shows("first\nsecond\nthird\n");
    let _ = tail.kill();
    let _ = tail.wait();
    assert!(
        first && second && third,
        "tail shows {:?}",
        fs::read_to_string(&output)
    );
}

/// A reader who is in the middle of a file when another takes its name gets the old content or EIO, never some
/// of each; whoever opens it then gets the new.
pub fn replaced_file(case: Case) {
    let server = case.server();
    let length = 40 << 20;
    let path = server.root.join("file");
    tree::fill(&path, 1, length);
    tree::set_age(&path, Duration::from_secs(5000));
    let new = server.root.join("new");
    tree::fill(&new, 2, length + 1);
    let mount = case.mount(&server, "attr_timeout=1,dir_timeout=1,window=4M");
    let through = mount.path("file");
    let old = tree::bytes(1, length as usize);
    let mut reader = soon(move || {
        let mut file = File::open(through).expect("open");
        let mut start = vec![0; 1 << 20];
        file.read_exact(&mut start).expect("read the start");
        assert!(start == old[..1 << 20], "the start");
        (file, old)
    });
    fs::rename(&new, &path).expect("replace the file");
    std::thread::sleep(Duration::from_millis(2500));
    // Another process looks at it meanwhile, so the new size and time become known.
    let looked = mount.path("file");
    assert_eq!(
        soon(move || looked.metadata()).expect("stat").len(),
        length + 1
    );
    soon(move || {
        let (file, old) = &mut reader;
        let mut offset = 1 << 20;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer) {
                Err(error) => break assert_eq!(errno(&error), Errno::EIO),
                Ok(0) => break assert_eq!(offset, old.len(), "an end that is none"),
                Ok(count) => {
                    let expected = old.get(offset..offset + count);
                    assert!(
                        expected == Some(&buffer[..count]),
                        "bytes of another file at {offset}"
                    );
                    offset += count;
                }
            }
        }
    });
    let fresh = mount.path("file");
    let content = soon(move || fs::read(fresh)).expect("open it again");
    assert!(
        content == tree::bytes(2, length as usize + 1),
        "the new content, whole"
    );
}
