//! The second half of a large file comes into the kernel's cache beside the first.

use super::*;

const MIB: usize = 1 << 20;

/// A file on a far server, and memory for stripes that are too short to pay.
fn mount(belief: Duration, all: &[u8]) -> (Mount, Faults) {
    let (mount, faults) = Mount::failing(
        |_| {},
        |config| {
            config.window_bytes = 11 * MIB;
            config.attr_timeout = belief;
        },
    );
    let far = "connect always: stall 60ms; command always: stall 60ms; data sent record always: stall 1ms";
    faults.set(far.parse().unwrap());
    fs::write(mount.there("file"), all).unwrap();
    (mount, faults)
}

fn is_coming() -> bool {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm"));
    tasks
        .filter_map(|task| name(task.ok()?).ok())
        .any(|name| name.trim() == "read-far")
}

/// Reads until the second half is on its way; where it came to.
fn begin(mount: &Mount, all: &[u8]) -> (File, usize) {
    let mut file = File::open(mount.here("file")).unwrap();
    let mut at = 0;
    let mut piece = vec![0; MIB];
    while !is_coming() {
        file.read_exact(&mut piece).unwrap();
        assert!(piece == all[at..][..MIB], "at {at}");
        at += MIB;
        assert!(at < all.len() / 2, "nothing is fetched from far ahead");
    }
    (file, at)
}

/// Reads on to the end.
fn go_on(file: &mut File, all: &[u8], mut at: usize) {
    let mut piece = vec![0; MIB];
    while at < all.len() {
        let length = MIB.min(all.len() - at);
        file.read_exact(&mut piece[..length]).unwrap();
        assert!(piece[..length] == all[at..][..length], "at {at}");
        at += length;
    }
}

/// One at a time: they know each other's threads.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn the_second_half_is_there_when_the_reader_comes_to_it() {
    let _alone = ALONE.lock();
    let all = content(60 * MIB + 777);
    let (mut mount, _faults) = mount(PATIENCE, &all);
    let (mut file, mut at) = begin(&mount, &all);
    let half = (at + all.len()) / 2 - 2 * MIB;
    while at < half {
        let mut piece = vec![0; MIB];
        file.read_exact(&mut piece).unwrap();
        assert!(piece == all[at..][..MIB], "at {at}");
        at += MIB;
    }
    let deadline = Instant::now() + PATIENCE / 2;
    while is_coming() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(10));
    }
    // What is in the kernel's cache needs no server.
    mount.server = None;
    mount.proxy.cut();
    let after = half + 4 * MIB;
    let mut piece = vec![0; 12 * MIB];
    file.read_exact_at(&mut piece, after as u64).unwrap();
    assert!(piece == all[after..][..12 * MIB]);
}

#[test]
fn what_is_written_meanwhile_stays_written() {
    let _alone = ALONE.lock();
    let mut all = content(54 * MIB);
    let (mount, faults) = mount(BELIEF, &all);
    let (mut file, at) = begin(&mount, &all);
    let writer = File::options()
        .write(true)
        .open(mount.here("file"))
        .unwrap();
    // All over the place that is being fetched.
    for i in 0..12 {
        let place = 38 * MIB + i * MIB + 12_345;
        let bytes = [0x5a ^ i as u8; 5000];
        writer.write_all_at(&bytes, place as u64).unwrap();
        all[place..place + 5000].copy_from_slice(&bytes);
        let mut back = [0; 5000];
        file.read_exact_at(&mut back, place as u64).unwrap();
        assert!(back == bytes, "at {place}");
    }
    go_on(&mut file, &all, at);
    faults.clear();
    drop(writer);
    assert!(fs::read(mount.there("file")).unwrap() == all);
    assert!(fs::read(mount.here("file")).unwrap() == all);
}

#[test]
fn a_file_cut_meanwhile_stays_cut() {
    let _alone = ALONE.lock();
    let all = content(54 * MIB);
    let (mount, faults) = mount(BELIEF, &all);
    let (mut file, at) = begin(&mount, &all);
    let path = mount.here("file");
    // By name, with no handle to write to.
    let cut = Command::new("truncate")
        .args(["-s", "44M"])
        .arg(&path)
        .status();
    assert!(cut.unwrap().success());
    go_on(&mut file, &all[..44 * MIB], at);
    faults.clear();
    assert_eq!(file.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), 44 << 20);
    assert!(fs::read(&path).unwrap() == all[..44 * MIB]);
}

#[test]
fn a_file_replaced_meanwhile_is_not_mixed_with_what_it_was() {
    let _alone = ALONE.lock();
    let all = content(54 * MIB);
    let (mount, faults) = mount(BELIEF, &all);
    let _old = begin(&mount, &all);
    // Between two commands that belong together it would not be noticed.
    faults.set("data sent record always: stall 1ms".parse().unwrap());
    thread::sleep(Duration::from_millis(300));
    assert!(is_coming());
    // On the server, by somebody else, in one step.
    let other: Vec<u8> = all.iter().map(|byte| byte ^ 0x33).collect();
    fs::write(mount.there("other"), &other).unwrap();
    fs::rename(mount.there("other"), mount.there("file")).unwrap();
    let deadline = Instant::now() + PATIENCE / 2;
    loop {
        let read = fs::read(mount.here("file"));
        if read.as_ref().is_ok_and(|read| *read == other) {
            break;
        }
        faults.clear();
        assert!(read.is_err() || read.unwrap() == all);
        assert!(Instant::now() < deadline);
    }
    assert!(!is_coming());
}

#[test]
fn nothing_is_fetched_from_far_ahead_for_a_file_that_is_being_written() {
    let _alone = ALONE.lock();
    let all = content(54 * MIB);
    let (mount, _faults) = mount(BELIEF, &all);
    let path = mount.here("file");
    let writer = File::options().write(true).open(&path).unwrap();
    let mut file = File::open(&path).unwrap();
    let mut piece = vec![0; MIB];
    for at in (0..54).map(|i| i * MIB) {
        file.read_exact(&mut piece).unwrap();
        assert!(piece == all[at..][..MIB], "at {at}");
        assert!(!is_coming(), "at {at}");
    }
    drop(writer);
}
