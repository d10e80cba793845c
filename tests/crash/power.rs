//! Power loss: the daemon dies, what its state folder's disk had not synced is gone, and the machine
//! starts anew.

use crate::common::enclosure::apart;
use crate::common::mount::Place;
use crate::common::server::Kind;
use crate::common::{full, wait_until};
use crate::disk::{Disk, Loss, Lost};
use crate::ledger::Part;
use crate::rig::{Mode, PATIENCE, Rig, inside, seed};
use nix::sys::signal::{Signal, kill};
use std::os::unix::fs::symlink;

macro_rules! power_losses {
    ($($name:ident: $kind:ident $mode:ident;)*) => {
        $(#[test]
        fn $name() {
            pull_the_plug(Kind::$kind, Mode::$mode);
        })*
    };
}

power_losses! {
    vsftpd: VsftpdExplicit Synchronous;
    vsftpd_with_write_back: VsftpdExplicit WriteBack;
    proftpd_with_write_back: ProftpdExplicit WriteBack;
    pure_ftpd_with_write_back: PureFtpd WriteBack;
}

/// Again and again, on a disk that loses everything it may, or some of it.
fn pull_the_plug(kind: Kind, mode: Mode) {
    let crashes = if full() { 25 } else { 2 };
    let part = match mode {
        // An append that nobody was told of is not synced before it is sent.
        Mode::Synchronous => Part::Beginning,
        Mode::WriteBack => Part::AnyByte,
    };
    let mut rig = Rig::new("without power", kind, mode, Some(part), seed());
    println!("{}", rig.title);
    let disk = Disk::new();
    let place = Place::new();
    symlink(disk.path(), place.beside("state")).expect("make a link");
    let mut cost = Lost::default();
    let mut boot = 0;
    let mut tries = 0;
    while rig.tally.crashes < crashes {
        tries += 1;
        assert!(tries < 2 * crashes + 10, "{}: nothing is hit", rig.title);
        boot += 1;
        let daemon = start(&rig, &place, boot);
        rig.work_and_kill(&inside(daemon, &place.dir), &place);
        assert!(place.is_deserted());
        let loss = match rig.dice.below(2) {
            0 => Loss::Everything,
            _ => Loss::Some(rig.dice.next()),
        };
        let lost = disk.pull_the_plug(loss);
        cost.pages += lost.pages;
        cost.names += lost.names;
        boot += 1;
        let daemon = start(&rig, &place, boot);
        let dir = inside(daemon, &place.dir);
        rig.is_calm(&dir);
        // It unmounts, and sends what is left.
        kill(daemon, Signal::SIGTERM).expect("end the daemon");
        let ends = wait_until(PATIENCE, || place.processes().is_empty());
        assert!(ends, "{}: the daemon stays", rig.title);
        rig.conclude(&place.beside("state"));
    }
    println!("{}: {cost:?}", rig.title);
    assert!(cost.pages > 0, "{}: the disk lost nothing", rig.title);
}

/// Mounts on the machine's `boot`th start, for the daemon's own eyes only.
fn start(rig: &Rig, place: &Place, boot: u32) -> nix::unistd::Pid {
    let id = place.write_private("boot_id", &format!("00000000-0000-0000-0000-{boot:012}\n"));
    let elsewhere = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let mut command = apart("sh");
    command.args(["-c", elsewhere]).arg(id);
    command.arg(env!("CARGO_BIN_EXE_ftpsfs"));
    command.args(["mount", "-f"]).arg(rig.server.source());
    command.arg(&place.dir).arg("-o");
    command.arg(place.options(&rig.server, rig.options()));
    place.start_logged(place.marked(command));
    place.daemon()
}
