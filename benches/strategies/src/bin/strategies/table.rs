//! Medians, and the table that is printed.

/// The figures of one workload: each peer's, by round.
pub struct Row {
    pub name: String,
    pub columns: Vec<(&'static str, Vec<f64>)>,
}

pub fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Times as ratios to the first peer that is not ours.
pub fn print_times(rows: &[Row]) {
    println!("time, the fastest peer of others = 1.00, lower is better (median of rounds)\n");
    for row in rows.iter().filter(|row| !row.columns.is_empty()) {
        let is_ours = |name: &str| name.starts_with("heapswitch");
        let others = row.columns.iter().filter(|(name, _)| !is_ours(name));
        let best = others.map(|(_, times)| median(times)).fold(f64::INFINITY, f64::min);
        // Where no other runs there is nothing to compare with.
        let best = if best.is_finite() { best } else { median(&row.columns[0].1) };
        print!("{:<34}", row.name);
        for (name, times) in &row.columns {
            print!("  {name} {:.2}", median(times) / best);
        }
        println!("  ({:.3} ms)", best * 1000.0);
    }
}

/// Shares of the memory, higher is better.
pub fn print_shares(rows: &[Row]) {
    println!("\nshare of the buffer that is live when a request is refused, higher is better\n");
    for row in rows.iter().filter(|row| !row.columns.is_empty()) {
        print!("{:<34}", row.name);
        for (name, shares) in &row.columns {
            print!("  {name} {:.1}%", median(shares) * 100.0);
        }
        println!();
    }
}

/// Counts of pages, lower is better.
pub fn print_pages(rows: &[Row]) {
    println!("\npages written to, mean of some sequences, lower is better\n");
    for row in rows.iter().filter(|row| !row.columns.is_empty()) {
        print!("{:<34}", row.name);
        for (name, pages) in &row.columns {
            print!("  {name} {:.0}", median(pages));
        }
        println!();
    }
}
