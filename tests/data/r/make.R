# Writes the .rds files of this folder: Rscript make.R FOLDER, where FOLDER has matrix.mtx (genes x
# cells), genes.txt, cells.txt and types.txt, which tests/test_rds.py makes of the pancreas fixture.
# Needs the packages Matrix, SeuratObject 4 and SingleCellExperiment. The classes of Seurat 5 are
# declared here as SeuratObject 5 declares them.
suppressMessages(library(Matrix))
args <- commandArgs(trailingOnly = TRUE)
out <- args[1]
m <- readMM(file.path(out, "matrix.mtx"))          # genes x cells
genes <- readLines(file.path(out, "genes.txt"))
cells <- readLines(file.path(out, "cells.txt"))
types <- readLines(file.path(out, "types.txt"))
m <- as(as(m, "CsparseMatrix"), "generalMatrix")
dimnames(m) <- list(genes, cells)
save_as <- function(object, name) saveRDS(object, file.path(out, name))
save_as(m, "dgCMatrix.rds")
saveRDS(m, file.path(out, "dgCMatrix_xz.rds"), compress = "xz")
saveRDS(m, file.path(out, "dgCMatrix_plain.rds"), compress = FALSE)
save_as(as.matrix(m), "dense.rds")
if (requireNamespace("SeuratObject", quietly = TRUE)) {
  suppressMessages(library(SeuratObject))
  object <- CreateSeuratObject(counts = m, meta.data = data.frame(cell_type = factor(types), score = seq_along(types) / 2, row.names = cells))
  logged <- m; logged@x <- log1p(m@x / rep(colSums(m), diff(m@p)) * 1e4)
  object <- SetAssayData(object, slot = "data", new.data = logged)
  object[["ADT"]] <- CreateAssayObject(counts = m[1:3, ])
  save_as(object, "seurat4.rds")
}
if (requireNamespace("SingleCellExperiment", quietly = TRUE)) {
  suppressMessages(library(SingleCellExperiment))
  sce <- SingleCellExperiment(assays = list(counts = m, logcounts = m), colData = DataFrame(cell_type = factor(types), row.names = cells), rowData = DataFrame(id = paste0("ID", seq_along(genes))))
  save_as(sce, "sce.rds")
}
# Seurat 5's classes, as SeuratObject 5 defines them
setClass("LogMap", contains = "matrix")
setClass("StdAssay", contains = "VIRTUAL", representation(layers = "list", cells = "LogMap", features = "LogMap", default = "integer", assay.orig = "character", meta.data = "data.frame", misc = "list", key = "character"))
setClass("Assay5", contains = "StdAssay")
if (!isClass("Seurat")) setClass("Seurat", representation(assays = "list", meta.data = "data.frame", active.assay = "character", active.ident = "factor", graphs = "list", neighbors = "list", reductions = "list", images = "list", project.name = "character", misc = "list", version = "package_version", commands = "list", tools = "list"))
half <- seq_along(cells) <= length(cells) / 2
plain <- m; dimnames(plain) <- list(NULL, NULL)
logmap <- function(rows, cols, value) new("LogMap", matrix(value, nrow = length(rows), ncol = length(cols), dimnames = list(rows, cols)))
layers <- list(counts.a = plain[, half], counts.b = plain[, !half])
cellmap <- logmap(cells, c("counts.a", "counts.b"), cbind(half, !half))
featmap <- logmap(genes, c("counts.a", "counts.b"), TRUE)
assay <- new("Assay5", layers = layers, cells = cellmap, features = featmap, default = 2L, key = "rna_", meta.data = data.frame(row.names = genes))
object <- new("Seurat", assays = list(RNA = assay), meta.data = data.frame(cell_type = factor(types), row.names = cells), active.assay = "RNA", active.ident = factor(types), version = package_version("5.0.0"))
save_as(object, "seurat5_split.rds")
assay@layers <- list(counts = plain, data = plain)
assay@cells <- logmap(cells, c("counts", "data"), TRUE)
assay@features <- logmap(genes, c("counts", "data"), TRUE)
object@assays <- list(RNA = assay)
save_as(object, "seurat5.rds")
