process SCBIGNNINFER_ANNOTATE {
    tag "$meta.id"
    label 'process_medium'

    conda "${moduleDir}/environment.yml"
    container "scbignn-infer:0.2.0"

    input:
    tuple val(meta), path(query)

    output:
    tuple val(meta), path("*.h5ad"), emit: h5ad
    tuple val(meta), path("*.json"), emit: record
    path "versions.yml"            , emit: versions

    when:
    task.ext.when == null || task.ext.when

    script:
    def args   = task.ext.args ?: ''
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

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scbignn-infer: \$(scbignn-infer --version | sed 's/.* //')
    END_VERSIONS
    """

    stub:
    def prefix = task.ext.prefix ?: "${meta.id}"
    if ("${query}" == "${prefix}.h5ad") {
        error("${query} would be both read and written; set task.ext.prefix to another name")
    }
    """
    touch ${prefix}.h5ad
    touch ${prefix}.json

    cat <<-END_VERSIONS > versions.yml
    "${task.process}":
        scbignn-infer: \$(scbignn-infer --version | sed 's/.* //')
    END_VERSIONS
    """
}
