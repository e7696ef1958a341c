// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernels to search.

/// A kernel of the range: a commit, a patch, a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name: a commit's hash, a patch's number.
    pub name: String,
    /// Its description in one line: a commit's subject.
    pub title: String,
    /// Numbers of the nodes that it changes, all smaller than its own.
    pub parents: Vec<usize>,
    /// True for a merge in the history, whatever parents it has in the range.
    pub merge: bool,
}

/// The kernels to search. The first is the good end, the last the bad end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    nodes: Vec<Node>,
}

impl Graph {
    /// The number of the good end.
    pub const GOOD: usize = 0;

    /// Returns the graph of these nodes, or `None` if there are fewer than two, or if a parent
    /// comes after its child.
    pub fn new(nodes: Vec<Node>) -> Option<Self> {
        let sound = |(number, node): (usize, &Node)| node.parents.iter().all(|p| *p < number);
        (nodes.len() >= 2 && nodes.iter().enumerate().all(sound)).then_some(Self { nodes })
    }

    /// Returns the graph of nodes in a row.
    pub fn linear(names: impl IntoIterator<Item = (String, String)>) -> Option<Self> {
        let node = |(number, (name, title)): (usize, _)| Node {
            name,
            title,
            parents: number.checked_sub(1).into_iter().collect(),
            merge: false,
        };
        Self::new(names.into_iter().enumerate().map(node).collect())
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the number of the bad end.
    pub fn bad(&self) -> usize {
        self.nodes.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_come_first() {
        let node = |parents: &[usize]| Node {
            parents: parents.to_vec(),
            ..Node::default()
        };
        assert!(Graph::new(vec![node(&[])]).is_none());
        assert!(Graph::new(vec![node(&[]), node(&[1])]).is_none());
        let graph = Graph::new(vec![node(&[]), node(&[0])]).unwrap();
        assert_eq!(graph.bad(), 1);
    }
}
