//! `MultipleBinarySearchTree`: red-black trees of free blocks.
