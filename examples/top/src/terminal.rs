//! The live view: the load runs on a thread of its own, the screen is drawn four times a second.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind};

use crate::load::Load;
use crate::model::Snapshot;
use crate::pictures::Album;
use crate::screen;

const FRAME: Duration = Duration::from_millis(250);
const STEP: Duration = Duration::from_millis(20);

/// Shows the load until `q` is pressed.
pub(crate) fn run(load: Load) -> Result<(), Box<dyn Error>> {
    let load = Mutex::new(load);
    let (is_paused, is_ended) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut terminal = ratatui::try_init()?;
    let shown = thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !is_ended.load(Ordering::Relaxed) {
                if !is_paused.load(Ordering::Relaxed) {
                    load.lock().unwrap_or_else(PoisonError::into_inner).step()?;
                }
                thread::sleep(STEP);
            }
            Ok::<(), heapswitch::HeapError>(())
        });
        let shown = show(&mut terminal, &load, &is_paused);
        is_ended.store(true, Ordering::Relaxed);
        match worker.join() {
            Ok(worked) => shown.and(worked.map_err(Into::into)),
            Err(_) => Err("the load panicked".into()),
        }
    });
    ratatui::try_restore()?;
    shown
}

fn show(
    terminal: &mut DefaultTerminal,
    load: &Mutex<Load>,
    is_paused: &AtomicBool,
) -> Result<(), Box<dyn Error>> {
    let mut album = Album::new();
    loop {
        let snapshot = Snapshot::now(&load.lock().unwrap_or_else(PoisonError::into_inner));
        album.sample();
        terminal.draw(|frame| screen::draw(frame, &snapshot))?;
        if !event::poll(FRAME)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind == KeyEventKind::Press => match key.code {
                KeyCode::Char('q') | KeyCode::Esc => return Ok(()),
                KeyCode::Char('p') => {
                    is_paused.fetch_xor(true, Ordering::Relaxed);
                }
                KeyCode::Char('w') => {
                    album.write(Path::new("."))?;
                }
                _ => {}
            },
            _ => {}
        }
    }
}
