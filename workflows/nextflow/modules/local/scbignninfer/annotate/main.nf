process SCBIGNNINFER_ANNOTATE {
    tag "${meta.id}"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    // In no registry yet: docs/docker.md says how to build it under this name.
    container "scbignn-infer:0.2.0"

    input:
    tuple val(meta), path(query)

    output:
    tuple val(meta), path("*.h5ad"), emit: h5ad
    tuple val(meta), path("*.json"), emit: record
    tuple val("${task.process}"), val('scbignn-infer'), eval("scbignn-infer --version | sed 's/.* //'"), topic: versions, emit: versions_scbignninfer

    when:
    task.ext.when == null || task.ext.when

    script:
    def args = task.ext.args ?: ''
    def prefix = task.ext.prefix ?: "${meta.id}"
    def memory = task.memory ? "--memory-limit ${task.memory.toMega()}MB" : ''
    if ("${query}" == "${prefix}.h5ad") {
        error("${query} would be both read and written; set task.ext.prefix to another name")
    }
    """
    scbignn-infer annotate \\
        ${query} \\
        --output ${prefix}.h5ad \\
        --threads ${task.cpus} \\
        ${memory} \\
        ${args} \\
        --json > ${prefix}.json
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    if ("${query}" == "${prefix}.h5ad") {
        error("${query} would be both read and written; set task.ext.prefix to another name")
    }
    """
    touch ${prefix}.h5ad
    echo '{}' > ${prefix}.json
    """
}
