//! Random commits with restarts in between, against the memory engine.

use proptest::prelude::*;

use super::script::{Op, Script, op};
use super::*;

#[derive(Clone, Copy, Debug)]
enum Act {
    Commit(Op),
    /// Closed and opened again.
    Restart,
    /// Dropped without a clean mark.
    Drop,
    /// As `kill -9` leaves it.
    Kill,
    /// The same, and the machine was started again.
    Reboot,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        40 => op().prop_map(Act::Commit),
        1 => Just(Act::Restart),
        1 => Just(Act::Drop),
        1 => Just(Act::Kill),
        1 => Just(Act::Reboot),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_is_committed_is_there_after_any_restart(
        acts in prop::collection::vec(act(), 1..200),
        segment_bytes in prop::sample::select(vec![4096u64, 16 << 10, 256 << 10]),
    ) {
        let dirs = tempfile::tempdir().unwrap();
        let mut boot = 0;
        let mut path = dirs.path().join("0");
        let at = |path: &Path, boot: u32| {
            let boot_id = Some(format!("boot-{boot}"));
            Embedded::open(Options { segment_bytes, boot_id, ..options(path) }).unwrap()
        };
        let (mut journal, _) = at(&path, boot);
        let mut script = Script::default();
        for (number, act) in acts.into_iter().enumerate() {
            let epoch = journal.epoch();
            match act {
                Act::Commit(op) => {
                    script.commit(&journal, op);
                    continue;
                }
                Act::Restart => journal.close().unwrap(),
                Act::Drop => {}
                Act::Kill | Act::Reboot => {
                    let next = dirs.path().join(format!("{}", number + 1));
                    copy(&path, &next);
                    path = next;
                }
            }
            boot += u32::from(matches!(act, Act::Reboot));
            drop(journal);
            let (opened, report) = at(&path, boot);
            prop_assert_eq!(report.damage, Vec::new());
            prop_assert_eq!(report.torn, Vec::new());
            prop_assert_eq!(report.clean, matches!(act, Act::Restart));
            prop_assert!(opened.epoch() > epoch);
            script.check(&opened);
            journal = opened;
        }
        script.check(&journal);
        journal.close().unwrap();
        drop(journal);
        let (reader, report) = Embedded::open_read_only(Options { segment_bytes, ..options(&path) }).unwrap();
        prop_assert_eq!(report.damage, Vec::new());
        script.check(&reader);
    }
}
