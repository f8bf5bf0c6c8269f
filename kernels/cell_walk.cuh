// How a sum over the cells (p, q) of all images n goes from cell to cell.
#pragma once
#include "netc.cuh"

// Walks over the cells of y in all images without dividing: a step is n_step images, p_step rows and q_step columns.
struct CellWalk {
  int n, p, q;
  DEVICE CellWalk(unsigned cell, int rows, int columns) {
    const unsigned plane = rows * columns;
    n = cell / plane;
    p = cell % plane / columns;
    q = cell % columns;  // planes are whole numbers of rows
  }
  DEVICE void advance(int n_step, int p_step, int q_step, int rows, int columns) {
    q += q_step;
    p += p_step;
    n += n_step;
    if (q >= columns) {
      q -= columns;
      ++p;
    }
    if (p >= rows) {
      p -= rows;
      ++n;
    }
  }
};
