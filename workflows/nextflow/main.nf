// Label every sample of a table, each with the same model.

include { SCBIGNNINFER_ANNOTATE } from './modules/local/scbignninfer/annotate/main'

workflow {
    samples = channel
        .fromPath(params.samples, checkIfExists: true)
        .splitCsv(header: true, sep: '\t')
        .map { row -> [[id: row.sample], file(row.file, checkIfExists: true)] }

    SCBIGNNINFER_ANNOTATE(samples)
}
