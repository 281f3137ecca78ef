# Writes the .h5seurat files of this folder: Rscript make_h5seurat.R FOLDER, where FOLDER has
# matrix.mtx, genes.txt, cells.txt and types.txt as for make.R. Needs Seurat 4, hdf5r and SeuratDisk
# 0.0.0.9021 (github.com/mojaveazure/seurat-disk).
suppressMessages({library(Matrix); library(Seurat); library(SeuratDisk)})
out <- commandArgs(trailingOnly = TRUE)[1]
m <- as(as(readMM(file.path(out, "matrix.mtx")), "CsparseMatrix"), "generalMatrix")
cells <- readLines(file.path(out, "cells.txt"))
dimnames(m) <- list(readLines(file.path(out, "genes.txt")), cells)
meta <- data.frame(
  cell_type = factor(readLines(file.path(out, "types.txt"))), score = seq_along(cells) / 2,
  donor = rep_len(c("a", "b"), length(cells)), good = rep_len(c(TRUE, FALSE, NA), length(cells)),
  cluster = rep_len(c(1L, NA), length(cells)), row.names = cells
)
meta$cell_type[2] <- NA
object <- NormalizeData(CreateSeuratObject(counts = m, meta.data = meta), verbose = FALSE)
object[["ADT"]] <- CreateAssayObject(counts = m[1:3, ])
object@commands <- list()
object@meta.data <- object@meta.data[, colnames(meta)]
save_as <- function(object, name) SaveH5Seurat(object, file.path(out, name), overwrite = TRUE, verbose = FALSE)
save_as(object, "seurat4.h5seurat")
object[["integrated"]] <- CreateAssayObject(data = as.matrix(GetAssayData(object, slot = "data")))
DefaultAssay(object) <- "integrated"
object[["RNA"]] <- NULL
object[["ADT"]] <- NULL
object@meta.data <- object@meta.data[, "score", drop = FALSE]
save_as(object, "dense.h5seurat")
