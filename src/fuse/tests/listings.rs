//! What a directory lacks is known while files are made in it, without one listing for each.

use super::*;

/// How long a listing takes.
const STALL: Duration = Duration::from_millis(300);

/// A writable mount of a server without facts, where listings take their time.
fn mount(belief: Duration) -> (Mount, Faults) {
    let (mount, faults) = Mount::failing(
        |config| config.without = ["MLST", "MLSD"].map(str::to_owned).into(),
        |config| {
            config.negative_timeout = belief;
            config.dir_timeout = belief;
        },
    );
    let stall = format!("stall {}ms", STALL.as_millis());
    let rules = format!("LIST always: {stall}; STAT always: {stall}");
    faults.set(rules.parse().unwrap());
    (mount, faults)
}

#[test]
fn writers_beside_each_other_do_not_list_their_directory_for_each_new_file() {
    const WRITERS: usize = 4;
    const FILES: usize = 20;
    let (mount, faults) = mount(Duration::from_secs(60));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let mount = &mount;
            scope.spawn(move || {
                for n in 0..FILES {
                    fs::write(mount.here(&format!("{writer}-{n}")), "new").unwrap();
                }
            });
        }
    });
    let listings = faults.counts().hits;
    assert!(listings <= 3 * WRITERS as u64, "{listings} listings");
    let names = fs::read_dir(mount.there("")).unwrap();
    assert_eq!(names.count(), WRITERS * FILES);
}

#[test]
fn files_made_one_after_another_do_not_wait_for_listings() {
    const BELIEF: Duration = Duration::from_secs(1);
    let (mount, faults) = mount(BELIEF);
    let begun = Instant::now();
    let mut slow = 0;
    for n in 0.. {
        let before = Instant::now();
        fs::write(mount.here(&n.to_string()), "new").unwrap();
        // The first ones find out what the server can do.
        slow += u32::from(begun + BELIEF < before && before.elapsed() >= STALL);
        if begun.elapsed() > 4 * BELIEF {
            break;
        }
    }
    assert!(faults.counts().hits >= 4, "not listed again");
    assert!(slow <= 1, "{slow} of them waited");
}
