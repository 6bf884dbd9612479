//! The examples, run as their users run them.

#[path = "examples/cache.rs"]
mod cache;
#[path = "examples/choose.rs"]
mod choose;
#[path = "examples/index.rs"]
mod index;
#[path = "examples/process.rs"]
mod process;
#[path = "examples/server.rs"]
mod server;

use process::{Folder, run};

#[test]
fn quickstart_tells_what_escaped() {
    let output = run("quickstart", &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("the longest word: REQUEST'S"), "{text}");
    #[cfg(not(heapswitch_pass_through))]
    {
        assert!(text.contains("escaped: 1 block, which keeps 65536 bytes"), "{text}");
        assert!(text.contains("when it is dropped: 65536 bytes go back"), "{text}");
    }
}

#[test]
fn collections_leave_nothing_behind() {
    let output = run("collections", &[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    #[cfg(not(heapswitch_pass_through))]
    assert!(text.contains("2001 blocks"), "{text}");
    assert!(text.contains("coast: 12.2 degrees\n  inland: 18.3 degrees"), "{text}");
    assert!(text.contains("when all are dropped: 0 blocks\nescaped: 0 blocks"), "{text}");
}

#[test]
fn numa_shows_every_heap_on_its_node() {
    let folder = Folder::new();
    let file = folder.0.join("placement.svg");
    let output = run("numa", &["--svg".as_ref(), file.as_os_str()]);
    assert!(output.status.success(), "{output:?}");
    #[cfg(not(heapswitch_pass_through))]
    {
        let text = String::from_utf8_lossy(&output.stdout);
        let rows = text.lines().filter(|line| line.contains(" on ")).count();
        assert!(rows >= 3 && text.contains("not resident"), "{text}");
        let svg = std::fs::read_to_string(&file).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
        // A cell for each heap of which the kernel tells, on each node.
        let cells = svg.matches("<rect ").count() + svg.matches("not told").count();
        assert!(cells >= 3, "{svg}");
    }
    assert!(!run("numa", &["--png".as_ref()]).status.success());
}
