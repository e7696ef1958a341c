// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Recipes of forged images, which remain valid in other guests. An image restarts only where its
//! files are, so the fuzzer keeps the steps by which it was forged instead.

use std::{fmt, str::FromStr};

use fastrand::Rng;

use super::{Forged, changes, forge_records, put_together};

/// Maximum number of steps of a recipe. With more steps, few records of an image stay intact.
const LONGEST: usize = 24;

/// A step of a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Step {
    /// One to three changes, drawn from this seed.
    Drawn(u64),
    /// The change with this number in the list of [`changes`].
    Listed(u32),
}

/// The steps by which an image is forged from that of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipe(Vec<Step>);

impl Recipe {
    /// Returns the recipe whose only step is the change with this number in the list of
    /// [`changes`].
    #[must_use]
    pub fn listed(number: u32) -> Self {
        Self(vec![Step::Listed(number)])
    }

    /// Returns the number of steps; 0 for the program's own image.
    #[must_use]
    pub fn steps(&self) -> usize {
        self.0.len()
    }

    /// Returns the image that is forged from these records.
    #[must_use]
    pub fn image(&self, records: &[Forged]) -> Vec<u8> {
        let mut forged = records.to_vec();
        for step in &self.0 {
            match step {
                Step::Drawn(seed) => {
                    forge_records(&mut forged, &mut Rng::with_seed(*seed));
                }
                // The list of an image that was changed before may be shorter.
                Step::Listed(number) => {
                    if let Some(change) = changes(&forged).get(*number as usize) {
                        change.apply(&mut forged);
                    }
                }
            }
        }
        put_together(&forged)
    }

    /// Returns a new recipe: this one with a further step. In one case of four it first removes a
    /// step, so that useless steps are lost.
    #[must_use]
    pub fn mutated(&self, rng: &mut Rng) -> Self {
        let mut steps = self.0.clone();
        if !steps.is_empty() && (steps.len() == LONGEST || rng.u8(0..4) == 0) {
            steps.remove(rng.usize(0..steps.len()));
        }
        steps.push(Step::Drawn(rng.u64(..)));
        Self(steps)
    }

    /// Returns the recipes with one step less.
    #[must_use]
    pub fn simpler(&self) -> Vec<Self> {
        let without = |index: usize| {
            let mut steps = self.0.clone();
            steps.remove(index);
            Self(steps)
        };
        (0..self.0.len()).map(without).collect()
    }
}

/// Formats the recipe: `-` for one without steps, else the steps with commas, each a seed in
/// hexadecimal, or `+` and the number of a listed change.
impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        for (number, step) in self.0.iter().enumerate() {
            let comma = if number == 0 { "" } else { "," };
            match step {
                Step::Drawn(seed) => write!(f, "{comma}{seed:x}")?,
                Step::Listed(change) => write!(f, "{comma}+{change}")?,
            }
        }
        Ok(())
    }
}

/// A text is not a recipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recipe is -, or steps with commas, such as 1f,a03 or +17")]
pub struct NotARecipe;

impl FromStr for Recipe {
    type Err = NotARecipe;

    fn from_str(text: &str) -> Result<Self, NotARecipe> {
        if text == "-" {
            return Ok(Self::default());
        }
        // The parsers of numbers take a sign, too.
        let is_unsigned = |text: &str| !text.starts_with(['+', '-']);
        let step = |text: &str| match text.strip_prefix('+') {
            Some(number) if is_unsigned(number) => number.parse().map(Step::Listed).ok(),
            None if is_unsigned(text) => u64::from_str_radix(text, 16).map(Step::Drawn).ok(),
            _ => None,
        };
        let steps = text.split(',').map(|text| step(text).ok_or(NotARecipe));
        steps.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::tests::{header, image, trailer};
    use super::super::take_apart;
    use super::*;

    #[test]
    fn a_recipe_is_read_as_it_is_written() {
        for recipe in [
            Recipe::default(),
            Recipe(vec![Step::Drawn(0)]),
            Recipe(vec![Step::Drawn(1), Step::Drawn(u64::MAX)]),
            Recipe(vec![Step::Listed(17), Step::Drawn(0x1f)]),
        ] {
            assert_eq!(recipe.to_string().parse(), Ok(recipe));
        }
        for wrong in ["", "x", "1,,2", "1,", "+", "+f", "+-1", "++1"] {
            assert_eq!(wrong.parse::<Recipe>(), Err(NotARecipe), "{wrong}");
        }
    }

    #[test]
    fn a_recipe_forges_the_same_image_again() {
        let image = image(&[(1, 0, header(0)), (21, 0, vec![]), (4, 0, trailer(3))]);
        let records = take_apart(&image[..]).unwrap();
        assert_eq!(Recipe::default().image(&records), image);
        let mut rng = Rng::with_seed(5);
        let mut recipe = Recipe::default();
        for _ in 0..3 * LONGEST {
            recipe = recipe.mutated(&mut rng);
            assert!(recipe.steps() <= LONGEST);
            assert_eq!(recipe.image(&records), recipe.image(&records));
        }
        assert_eq!(recipe.simpler().len(), recipe.steps());
    }

    #[test]
    fn listed_steps_make_the_listed_changes() {
        let image = image(&[(1, 0, header(0)), (4, 0, trailer(2))]);
        let records = take_apart(&image[..]).unwrap();
        let changes = changes(&records);
        for (number, change) in (0..).zip(&changes) {
            let recipe = Recipe::listed(number);
            assert_eq!(recipe.image(&records), change.image(&records));
        }
        let beyond = Recipe::listed(changes.len() as u32);
        assert_eq!(beyond.image(&records), image);
    }
}
