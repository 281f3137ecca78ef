"""The shipped models, by the checksums of their records, which hold those of all files.

``training/tables/make_shipped.py`` writes this file, once it has checked them whole.
"""

SHIPPED = frozenset(
    {
        # human-body
        "6d664ee571a8a9744c217dc1629971cdf5ff54531bd23b8d2a761a75a6a24bb8",
        # human-lung-cancer-lines
        "c4053b388d11aeb1260e4ba1dea61fcf07896cc59daf9bddb0a9512be1a517a9",
        # human-pancreas
        "880df643971f8dfac64f5c05613e2b8f2a1cc46004c087675e1fcee80b8dcd48",
        # human-pbmc
        "4febc2f7c0594dedf8c7f8b5f470132478552fdd2488b7a1a3383200c41672b2",
        # mouse-body
        "6dcca5ab1b99b8e7c4009ae24945d4201e9f446034d4d2d5f7919e44e706e423",
        # mouse-pancreas
        "780316ac1e60b28210c1a890b0aa0f9141b170ad8ae8c6163aa88781d9b05dc1",
    }
)
