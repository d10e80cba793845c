//! SIGKILL at random moments.

use crate::common::full;
use crate::common::mount::Place;
use crate::common::server::Kind;
use crate::ledger::Part;
use crate::rig::{Mode, Rig, seed};

macro_rules! kills {
    ($($name:ident: $kind:ident $mode:ident;)*) => {
        $(#[test]
        fn $name() {
            kill_again_and_again(Kind::$kind, Mode::$mode);
        })*
    };
}

kills! {
    vsftpd: VsftpdExplicit Synchronous;
    vsftpd_with_write_back: VsftpdExplicit WriteBack;
    proftpd: ProftpdExplicit Synchronous;
    proftpd_with_write_back: ProftpdExplicit WriteBack;
    pure_ftpd: PureFtpd Synchronous;
    pure_ftpd_with_write_back: PureFtpd WriteBack;
    pyftpdlib: PyftpdlibImplicit Synchronous;
    pyftpdlib_with_write_back: PyftpdlibImplicit WriteBack;
}

/// The daemon dies under the load, and now and then its successor dies while it makes up for that.
fn kill_again_and_again(kind: Kind, mode: Mode) {
    // 200 in each of the two modes.
    let crashes = if full() { 50 } else { 2 };
    let part = match mode {
        Mode::Synchronous => None,
        // What goes over bytes that wait to be sent cannot be taken back.
        Mode::WriteBack => Some(Part::AnyByte),
    };
    let mut rig = Rig::new("killed", kind, mode, part, seed());
    println!("{}", rig.title);
    let mut place = Place::new();
    let mut misses = 0;
    while rig.tally.crashes < crashes {
        let mount = rig.mount(place);
        if rig.work_and_kill(&mount.dir.clone(), mount.place()) == 0 {
            misses += 1;
        }
        assert!(misses < 10, "{}: the kills hit nothing", rig.title);
        place = mount.into_place();
        assert!(place.is_deserted());
        // Every third successor is not given the time.
        if rig.dice.below(3) > 0 || rig.tally.crashes >= crashes {
            place = rig.check(place);
        }
    }
    assert!(rig.tally.interrupted >= crashes);
}
