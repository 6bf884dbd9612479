//! Settings by the environment, each in a process of its own.

use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::OWNER_BYTES;
use crate::sleepers::{FreedBy, MOST_RESIDENT, Sleepers};

/// The variable that says what a child is to do.
const TASK: &str = "HEAPSWITCH_TEST_TASK";

/// Runs a test of this program again, in a process that has a task and variables.
fn child(test: &str, task: &str, variables: &[(&str, &str)]) -> Output {
    let name = format!("settings::{test}");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &name, "--nocapture", "--test-threads=1"]).env(TASK, task);
    for (variable, value) in variables {
        command.env(format!("HEAPSWITCH_{variable}"), value);
    }
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{task}, {variables:?}: {errors}");
    output
}

fn errors_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_idle_process_gives_back_by_its_purge_thread_and_not_without() {
    let _alone = crate::alone();
    let test = "an_idle_process_gives_back_by_its_purge_thread_and_not_without";
    match std::env::var(TASK).as_deref() {
        Ok("give back") => {
            for freed_by in [FreedBy::Owners, FreedBy::Another] {
                let sleepers = Sleepers::after(freed_by, OWNER_BYTES);
                let part = sleepers.wait_until(MOST_RESIDENT, || ());
                println!("freed by {freed_by:?}: {part:.4} is resident");
                assert!(part <= MOST_RESIDENT, "freed by {freed_by:?}: {part} is resident");
                sleepers.wake();
            }
        }
        Ok("keep") => {
            let sleepers = Sleepers::after(FreedBy::Another, OWNER_BYTES);
            // A period or two: what nobody gives back stays.
            let part = sleepers.resident_part();
            thread::sleep(Duration::from_millis(1000));
            let kept = sleepers.resident_part();
            println!("{part:.4} was resident, and {kept:.4} after a while");
            assert!(part > MOST_RESIDENT && kept > part - 0.001, "{part} {kept}");
        }
        _ => {
            let soon = ("DECAY_MILLISECONDS", "300");
            child(test, "give back", &[("PURGE_THREAD", "true"), soon]);
            child(test, "keep", &[("PURGE_THREAD", "false"), soon]);
        }
    }
}

/// The kernel's flags of the mapping that this thread's blocks are in.
fn flags_of_threads_memory() -> String {
    let block = Box::new(7_u64);
    flags_at(std::ptr::from_ref(&*block).addr())
}

fn flags_at(address: usize) -> String {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut is_ours = false;
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let ends = range.map(|(start, end)| [start, end].map(|end| usize::from_str_radix(end, 16)));
        if let Some([Ok(start), Ok(end)]) = ends {
            is_ours = (start..end).contains(&address);
        }
        if is_ours && line.starts_with("VmFlags:") {
            return line.to_owned();
        }
    }
    panic!("no mapping of {address:x} in {maps}");
}

#[test]
fn huge_pages_are_asked_for_or_forbidden() {
    let _alone = crate::alone();
    let test = "huge_pages_are_asked_for_or_forbidden";
    let flag = match std::env::var(TASK).as_deref() {
        Ok(flag) => flag.to_owned(),
        Err(_) => {
            // Nothing goes back meanwhile, which would withdraw the wish.
            let never = ("DECAY_MILLISECONDS", "3600000");
            child(test, "hg", &[("THREAD_HUGE_PAGES", "transparent"), never]);
            child(test, "nh", &[("THREAD_HUGE_PAGES", "never"), never]);
            return;
        }
    };
    let flags = flags_of_threads_memory();
    assert!(flags.split_ascii_whitespace().any(|known| known == flag), "{flags}");
}

#[test]
fn statistics_are_written_at_the_end_where_they_are_wanted() {
    let _alone = crate::alone();
    let test = "statistics_are_written_at_the_end_where_they_are_wanted";
    if std::env::var_os(TASK).is_some() {
        return;
    }
    let title = "heapswitch: at the end of process ";
    let errors = errors_of(&child(test, "", &[("STATISTICS", "true")]));
    assert!(errors.contains(title) && errors.contains("foreign frees"), "{errors}");
    let errors = errors_of(&child(test, "", &[("STATISTICS", "false")]));
    assert!(!errors.contains(title), "{errors}");
}

#[test]
fn what_makes_no_sense_is_reported_and_changes_nothing() {
    let _alone = crate::alone();
    let test = "what_makes_no_sense_is_reported_and_changes_nothing";
    if std::env::var_os(TASK).is_some() {
        // The default of huge pages, and no purge thread.
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
        assert!(
            !threads
                .flatten()
                .filter_map(|thread| name(thread).ok())
                .any(|name| { name.trim() == "heapswitch" })
        );
        // Wanted, but not of the first memory.
        let has = |flags: String, flag| flags.split_ascii_whitespace().any(|known| known == flag);
        let block: Vec<u8> = Vec::with_capacity(20 << 20);
        assert!(has(flags_of_threads_memory(), "nh"));
        assert!(has(flags_at(block.as_ptr().addr() + block.capacity() - 1), "hg"));
        return;
    }
    let wrong = [
        ("DECAY_MILLISECONDS", "soon", "a whole number from 0 to 3600000"),
        ("DECAY_MILLISECONDS", "-1", "a whole number from 0 to 3600000"),
        ("PURGE_THREAD", "1", "false or true"),
        ("THREAD_HUGE_PAGES", "always", "system or never or transparent or grown"),
        ("COROUTINE_HUGE_PAGES", "", "system or never or transparent or grown"),
        (
            "THREAD_PLACEMENT",
            "interleaved",
            "home or bind or interleave or weighted_interleave or local or process",
        ),
        ("STATISTICS", "yes", "false or true"),
    ];
    for (variable, value, takes) in wrong {
        let errors = errors_of(&child(test, "", &[(variable, value)]));
        let told =
            format!("heapswitch: the environment variable HEAPSWITCH_{variable} is `{value}`");
        assert!(errors.contains(&told), "{errors}");
        assert!(errors.contains(&format!("takes {takes}; it is ignored\n")), "{errors}");
        assert!(!errors.contains("heapswitch: at the end of process"), "{errors}");
    }
    for (name, meant) in [
        ("DECAY_MS", "DECAY_MILLISECONDS"),
        ("thread_placement", "THREAD_PLACEMENT"),
        ("THREAD_HUGEPAGES", "THREAD_HUGE_PAGES"),
        ("STATS", "STATISTICS"),
    ] {
        let errors = errors_of(&child(test, "", &[(name, "10")]));
        let told = format!(
            "heapswitch: the environment variable HEAPSWITCH_{name} is no setting: \
             was HEAPSWITCH_{meant} meant? It is ignored\n"
        );
        assert!(errors.contains(&told), "{errors}");
    }
    // The last is somebody else's.
    for right in ["DECAY_MILLISECONDS", "REPORT"] {
        let errors = errors_of(&child(test, "", &[(right, "10")]));
        assert!(!errors.contains("the environment variable"), "{errors}");
    }
}
